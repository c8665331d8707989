"""Accuracy of an image network on ImageNet-1k: top-1 and top-5.

    uv run benchmarks/imagenet.py
        the shipped checkpoint `unidual10_aux.toy` on the embedded images; under a minute on 2 cores, after the images
        have been made once
    uv run benchmarks/imagenet.py --model local-dir:RUN/export --data /data/imagenet --workers 8
        what `unidual train` left in RUN on the validation images, /data/imagenet/val/<class>/<file> (names of classes,
        or WordNet ids), a flat /data/imagenet/val with its ground-truth file (docs/data.md), a CSV or shards
    uv run benchmarks/imagenet.py --model unidual34.in1k_k400 --checkpoint FILE --data /data/imagenet
        a file of weights for that name's tasks

An image has one view, the model's own resize and centre crop (34 layers: 128×171 and 112; 152 layers: short side 256
and 224). What to expect: `docs/results.md` holds the measured figures. A file that fails counts as wrong and is named.
The last line of standard output is one JSON object.

This is `unidual evaluate imagenet`; `--help` lists the options.
"""

from unidual.app import run_benchmark

if __name__ == "__main__":
    run_benchmark("imagenet", __doc__)
