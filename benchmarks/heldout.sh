#!/usr/bin/env bash
# The held-out figures of docs/results.md, from the source to the page.
#
#   bash benchmarks/heldout.sh LABELS.json FRAMES STUDIES ANNOTATIONS.json OUT
#
# LABELS.json, FRAMES        the report's labels and frames, 150 studies
# STUDIES, ANNOTATIONS.json  the same studies as DICOM, in folders study0 … study150, with a Tianchi
#                            annotation; only those that no network saw are scored
# OUT                        a new folder for everything that is made
#
# Two thirds of the studies train a detector, a classifier and a namer; all take the weights of their
# last epoch, so that the other third decides nothing. It took about an hour on two CPU cores that had other
# work beside it.
set -euo pipefail
labels=$1 frames=$2 studies=$3 annotations=$4 out=$5

spineline convert report annotations="$labels" images="$frames" out="$out/data" split=0.67 seed=0
spineline detect train model=yolov8n data="$out/data" out="$out/detector" hyp=lumbar val=false seed=0
spineline classify train data="$out/data" out="$out/classifier" hyp=lumbar seed=0 threads=1
spineline naming train data="$out/data" out="$out/naming" seed=0
cp "$out/naming/namer.safetensors" "$out/namer.safetensors"
spineline weights strip weights="$out/detector/weights/last.safetensors" out="$out/yolov8n.safetensors"
spineline weights strip weights="$out/classifier/weights/last.safetensors" out="$out/gradients.safetensors"
held_out=$(python3 -c 'import json, sys
print(",".join(f"study{int(name)}" for name in json.load(open(sys.argv[1]))["val"]))' "$out/data/split.json")
spineline pipeline val ids="$held_out" source="$studies" annotations="$annotations" out="$out/val" \
  weights="$out/yolov8n.safetensors,$out/gradients.safetensors,$out/namer.safetensors"
python3 "$(dirname "$0")/heldout_table.py" val="$out/val" page="$out/results.md"
