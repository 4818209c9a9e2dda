"""Work on a Ray cluster: the results of the local pool, in their order; skipped where Ray is not installed."""

from __future__ import annotations

import importlib.util

import pytest

from audiogen.core.errors import UserError
from audiogen.core.parallel import parallel

here = importlib.util.find_spec("ray") is not None
needed = pytest.mark.skipif(not here, reason="ray is not installed (pip install 'audiogen[ray]')")


@pytest.mark.skipif(here, reason="ray is installed")
def test_without_ray_one_line_says_how_to_get_it():
    with pytest.raises(UserError, match=r"audiogen\[ray\]"):
        parallel(eval, ["1"], crashed=None, ray="auto")


@pytest.fixture(scope="module")
def address():
    """Two nodes of one core each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


@needed
@pytest.mark.filterwarnings("ignore")
def test_results_come_in_order_and_a_task_that_kills_its_process_is_found(address):
    tasks = ["1 + 1", "__import__('os')._exit(1)", *(f"{i} * {i}" for i in range(20))]
    seen = {}
    expected = [2, "crashed", *(i * i for i in range(20))]
    assert parallel(eval, tasks, crashed="crashed", ray=address, done=seen.__setitem__) == expected
    assert [seen[i] for i in range(len(tasks))] == expected


@needed
@pytest.mark.filterwarnings("ignore")
def test_what_a_task_raises_is_raised_here(address):
    with pytest.raises(ZeroDivisionError):
        parallel(eval, ["1", "1 / 0"], crashed=None, ray=address)


@needed
def test_a_cluster_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="no Ray cluster answers"):
        parallel(eval, ["1"], crashed=None, ray="127.0.0.1:9")
