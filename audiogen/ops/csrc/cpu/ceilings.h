#pragma once

#include "isa.h"

namespace audiogen {
AUDIOGEN_EACH_LEVEL(double multiply_adds(long rounds); float read_numbers(const float* numbers, long n, long times);)
}
