#!/usr/bin/env bash
# diffusers 0.42.1, torch 2.13.0: Model.from_config(dict(model.config, KEY=VALUE)) ignores VALUE without a word for every
# KEY that the first model was not given: `config` lists those under `_use_default_values`, and from_config then takes the
# default again. VQModel's lookup_from_codebook, without which decode() takes no codes, is such a key.
# Seen: lookup_from_codebook=True and scaling_factor=0.5 come out as False and 0.18215; the constructor takes both.
# What would be right: the value that is given, or an error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 diffusers==0.42.1
cat > seen.py <<'PYTHON'
from diffusers import VQModel

wanted = {"lookup_from_codebook": True, "scaling_factor": 0.5}
model = VQModel(block_out_channels=(32,))
got = VQModel.from_config({**model.config, **wanted}).config
direct = VQModel(block_out_channels=(32,), **wanted).config
for key in wanted:
    print(f"{key}: wanted {wanted[key]}, from_config gives {got[key]}, the constructor {direct[key]}")
assert [got[key] for key in wanted] == [False, 0.18215], "behaves otherwise now"
assert [direct[key] for key in wanted] == list(wanted.values())
PYTHON
venv/bin/python seen.py
