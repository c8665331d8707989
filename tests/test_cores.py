"""The cores that a process may use: its affinity and the quota of its cgroups, and torch's threads held to them."""

import os

import pytest
import torch

from unidual_zoo import cores

V1 = "4:memory:/job\n1:cpu,cpuacct:/job/inner\n0::/\n"
CPU = "/sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2.5),
        (  # the parent's limit is the smaller one
            {
                "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
                "/sys/fs/cgroup/a/cpu.max": "150000 50000\n",
            },
            3.0,
        ),
        ({"/proc/self/cgroup": V1, f"{CPU}/cpu.cfs_quota_us": "-1\n", f"{CPU}/cpu.cfs_period_us": "100000\n"}, None),
        (  # in a container the path is the host's, and is not there
            {"/proc/self/cgroup": V1, f"{CPU}/cpu.cfs_quota_us": "50000\n", f"{CPU}/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
    ],
)
def test_the_quota_of_cgroups(files, expected):
    assert cores.quota(files.get) == expected


@pytest.mark.parametrize(("allowed", "expected"), [(None, 6), (0.5, 1), (2.5, 3), (64.0, 6)])
def test_a_quota_holds_a_process_to_fewer_cores_and_torch_to_as_many_threads(monkeypatch, allowed, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(cores, "quota", lambda _: allowed)
    assert cores.usable_cores() == expected
    threads = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    cores.limit_threads()
    assert threads == [8], "the environment has chosen"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    cores.limit_threads()
    assert threads == [8, expected]
