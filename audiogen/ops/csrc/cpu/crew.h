// Two threads that share the rows of one stream, as long as that pays: what a generator's loop (wavenet_generate.isa.cpp)
// asks of them. Who comes first leads: it makes steps alone or calls the other for some, by the clock (crew.cpp).
#pragma once

namespace audiogen {

struct CrewRoom;  // where a member sleeps, and the leader's records: crew.cpp

struct Crew {
  struct alignas(64) Count {  // each is written by one thread alone
    long number = 0;
  };
  Count arrived[2];                // meetings that each member has come to
  Count ordered, taken;            // orders by the leader, and how many the other has taken
  alignas(64) long sleepers = 0;   // members who sleep
  alignas(64) CrewRoom* room = nullptr;  // null: one thread, who does it all
};

// Steps begin .. end, by both or by the leader alone. begin == end: no more.
struct Order {
  long begin, end;
  bool together;
};

Order crew_lead(Crew&, long now, long end);  // the leader's next steps; what it has left for the other must be in memory
Order crew_follow(Crew&);                    // the other one waits for steps to make together
void crew_sleep(Crew&, const long* number, long wanted);  // until *number is at least `wanted`
void crew_wake(Crew&);

}  // namespace audiogen
