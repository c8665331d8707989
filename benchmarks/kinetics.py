"""Accuracy of a video network on Kinetics-400: clip@1, video@1 and video@5.

    uv run benchmarks/kinetics.py
        the shipped checkpoint `unidual10_aux.toy` on the embedded videos, 10 clips a video; some 40 s on 2 cores,
        after the videos have been made once
    uv run benchmarks/kinetics.py --model local-dir:RUN/export --data /data/k400 --workers 8 --dtype bfloat16
        what `unidual train` left in RUN, by the paper's protocol for 34 layers on the validation videos: those of
        /data/k400/val.csv (label, youtube_id, time_start, time_end) that are there, else /data/k400/val/<class>/<file>
    uv run benchmarks/kinetics.py --model local-dir:RUN/export --data /data/k400 --layout kinetics
        the same of class folders alone, in whose names `_` stands for a blank; docs/data.md has the other layouts
    uv run benchmarks/kinetics.py --model unidual152.in1k_k400 --checkpoint FILE --data val.csv --protocol unidual152
        a file of weights for that name's tasks, by the paper's protocol for 152 layers: 10 clips × 3 crops, fully
        convolutional

Cost on real data: a file is decoded once, some 0.15 s of a core for a 10-second Kinetics video; the rest is the
network's multiply-adds (`unidual models`) times 10 views, or 30 larger ones. What to expect: `docs/results.md` holds
the measured figures. A file that fails counts as wrong and is named. The last line of standard output is one JSON
object.

This is `unidual evaluate kinetics`; `--help` lists the options.
"""

from unidual.app import run_benchmark

if __name__ == "__main__":
    run_benchmark("kinetics", __doc__)
