"""Accuracy of a video network on Sports-1M: clip@1, video@1 and video@5.

    uv run benchmarks/sports1m.py --model local-dir:RUN/export --data /data/sports1m --workers 8
        the videos of test_partition.txt that are there; of several labels any is right. A CSV of path,label or
        folders split/class/file serve, too
    uv run benchmarks/sports1m.py
        without data the embedded videos are evaluated, which hold nothing of Sports-1M: it shows that the command runs

Cost on real data: these videos last minutes and the clips lie all over them, so that decoding costs more than the
network unless the files were cut. What to expect: `docs/results.md` holds the measured figures. A file that fails
counts as wrong and is named. The last line of standard output is one JSON object.

This is `unidual evaluate sports1m`; `--help` lists the options.
"""

from unidual.app import run_benchmark

if __name__ == "__main__":
    run_benchmark("sports1m", __doc__)
