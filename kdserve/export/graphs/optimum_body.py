"""Runs in an environment that has optimum-onnx, and not kdserve: python optimum_body.py FOLDER OUT.

FOLDER holds the body's config.json and model.safetensors, OUT receives model.onnx with `last_hidden_state`.
"""

import sys

from optimum.exporters.onnx import main_export

main_export(
    sys.argv[1],
    sys.argv[2],
    task="feature-extraction",
    library_name="transformers",
    local_files_only=True,
    do_validation=False,
    opset=17,
)
