"""From a translator's bundle back to the folder of a student that writes: BERT's layers on both sides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from safetensors.numpy import save_file

from kdserve.errors import FolderError
from kdserve.export.constants import (
    BIT_WIDTHS,
    Constants,
    body_tensors,
    levels_of,
    read_constants,
    reading_back,
    token_table,
    weight_of,
)
from kdserve.export.read.weights import Array
from kdserve.json_files import read_object
from kdserve.manifest import write_manifest
from kdserve.model_settings import SequenceStudentSettings
from kdserve.quiet import quiet_transformers
from kdserve.runtime.sequence.settings import (
    DECODER_NAME,
    ENCODER_NAME,
    SOURCE_NAME,
    TARGET_NAME,
    TranslatorBundle,
    open_translator_bundle,
)
from kdserve.staging import staged_folder

_TABLE = "decoder.bert.embeddings.word_embeddings.weight"
_ACTIVATIONS = {"Gelu": "gelu", "FastGelu": "gelu_new", "Relu": "relu", "QuickGelu": "silu"}
_EARLY: Mapping[str, bool | str] = {"false": False, "true": True, "never": "never"}
_DECODER_PARTS = {
    "attention_output": "attention.output.dense",
    "cross_query": "crossattention.self.query",
    "cross_output": "crossattention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}
_DECODER_NORMS = {
    "attention": "attention.output.LayerNorm",
    "cross": "crossattention.output.LayerNorm",
    "output": "output.LayerNorm",
}


def reopen_translator(bundle: Path, out: Path) -> None:
    """Write the student of a translator or summariser: encoder and decoder of BERT's kind, in any precision.

    Its target tokenizer is the bundle's, which only reads tokens back.

    Raises:
        FolderError: the bundle is damaged or of another family, or `out` exists.
    """
    opened = open_translator_bundle(bundle)
    with reading_back(bundle):
        graphs = {name: onnx.load(bundle / name) for name in (ENCODER_NAME, DECODER_NAME)}
        encoder, decoder = (read_constants(graph) for graph in graphs.values())
        if not _is_bert_pair(graphs[ENCODER_NAME], encoder, decoder):
            raise FolderError(f"{bundle} cannot be read back: its encoder and decoder are not both of BERT's kind")
        table = token_table(encoder)
    with staged_folder(out) as folder, reading_back(bundle):
        tensors = _decoder_tensors(encoder, decoder)
        sides = {name: _sizes(graph, bundle) for name, graph in graphs.items()}
        sides[ENCODER_NAME] |= _shapes(table, encoder)
        sides[DECODER_NAME] |= _shapes(tensors[_TABLE], decoder)
        body = body_tensors(table, encoder, sides[ENCODER_NAME])
        tensors |= {f"encoder.{name}": value for name, value in body.items() if not name.startswith("pooler.")}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        _write_config(opened, sides, decoder, folder)
        for side, name in (("source", SOURCE_NAME), ("target", TARGET_NAME)):
            (folder / side).mkdir()
            spec = {**read_object(bundle / name), "padding": None, "truncation": None}
            (folder / side / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
        write_manifest(
            folder,
            kind="sequence-student",
            parents={
                **{role: key for role, key in opened.parents.items() if role != "student"},
                "bundle": opened.fingerprint,
            },
            settings=_described(opened, encoder).to_json(),
        )


def _is_bert_pair(graph: onnx.ModelProto, encoder: Constants, decoder: Constants) -> bool:
    attentions = [node for node in graph.graph.node if node.op_type == "MultiHeadAttention"]
    return (
        {"positions", "embedding.gain", "layer0.query"} <= encoder.arrays.keys()
        and not {"final.gain", "layer0.gate"} & encoder.arrays.keys()
        and {"positions", "embedding.gain", "transform"} <= decoder.arrays.keys()
        and "input_table" not in decoder.arrays
        and not any(len(node.input) > 5 and node.input[5] for node in attentions)
    )


def _decoder_tensors(encoder: Constants, decoder: Constants) -> dict[str, Array]:
    """Name the decoder's weights, and what the encoder's graph computes for it, as transformers does."""
    arrays, bert, head = decoder.arrays, "decoder.bert.", "decoder.cls.predictions."
    stored = arrays["table"]
    table = stored if stored.dtype == np.float32 else levels_of(stored) * arrays["table.row_scales"]
    tensors: dict[str, Array] = {
        _TABLE: table,
        f"{bert}embeddings.position_embeddings.weight": arrays["positions"],
        f"{bert}embeddings.token_type_embeddings.weight": np.zeros((1, table.shape[1]), np.float32),
        f"{head}bias": arrays.get("table.bias", np.zeros(len(table), np.float32)),
    }

    def put(theirs: str, weight_KN: Array, bias: Array | None) -> None:
        tensors[f"{theirs}.weight"] = np.ascontiguousarray(weight_KN.T)
        tensors[f"{theirs}.bias"] = np.zeros(weight_KN.shape[1], np.float32) if bias is None else bias

    def put_norm(theirs: str, ours: str) -> None:
        tensors[f"{theirs}.weight"], tensors[f"{theirs}.bias"] = arrays[f"{ours}.gain"], arrays[f"{ours}.shift"]

    put_norm(f"{bert}embeddings.LayerNorm", "embedding")
    put_norm(f"{head}transform.LayerNorm", "transform")
    put(f"{head}transform.dense", weight_of(decoder, "transform", "transform_input"), arrays.get("transform.bias"))
    if "bridge" in encoder.arrays:
        put("enc_to_dec_proj", weight_of(encoder, "bridge", "bridge_input"), encoder.arrays.get("bridge.bias"))
    index = 0
    while (ours := f"layer{index}") and f"{ours}.attention" in arrays:
        theirs = f"{bert}encoder.layer.{index}."
        joined = weight_of(decoder, f"{ours}.attention", f"{ours}.attention_input")
        shift = arrays.get(f"{ours}.attention.bias", np.zeros(joined.shape[1], np.float32))
        parts = ("query", "key", "value")
        for part, weight, bias in zip(parts, np.split(joined, 3, axis=1), np.split(shift, 3), strict=True):
            put(f"{theirs}attention.self.{part}", weight, bias)
        for part in ("key", "value"):
            name = f"decoder{index}.{part}"
            weight = weight_of(encoder, name, "source_input")
            put(f"{theirs}crossattention.self.{part}", weight, encoder.arrays.get(f"{name}.bias"))
        for part, module in _DECODER_PARTS.items():
            name = f"{ours}.{part}"
            put(f"{theirs}{module}", weight_of(decoder, name, f"{name}_input"), arrays.get(f"{name}.bias"))
        for norm, module in _DECODER_NORMS.items():
            put_norm(f"{theirs}{module}", f"{ours}.{norm}")
        index += 1
    return tensors


def _sizes(graph: onnx.ModelProto, bundle: Path) -> dict[str, Any]:
    """What a configuration says that is written in the nodes alone."""
    nodes = {node.op_type: node for node in reversed(graph.graph.node)}
    heads, norm = nodes["MultiHeadAttention"], nodes["LayerNormalization"]
    activations = [name for op, name in _ACTIVATIONS.items() if op in nodes]
    if len(activations) != 1:  # RoBERTa has a GELU behind its last layer, whatever its layers have
        known = ", ".join(_ACTIVATIONS.values())
        raise FolderError(f"{bundle} cannot be read back: its activation is not one of {known}")
    return {
        "model_type": "bert",
        "type_vocab_size": 1,
        "num_attention_heads": next(part.i for part in heads.attribute if part.name == "num_heads"),
        "layer_norm_eps": round(next(part.f for part in norm.attribute if part.name == "epsilon"), 15),
        "hidden_act": activations[0],
    }


def _shapes(table: Array, constants: Constants) -> dict[str, int]:
    return {
        "vocab_size": table.shape[0],
        "hidden_size": table.shape[1],
        "num_hidden_layers": sum(name.endswith(".output.gain") for name in constants.arrays),
        "intermediate_size": len(constants.arrays["layer0.up.bias"]),
        "max_position_embeddings": len(constants.arrays["positions"]),
    }


def _write_config(
    opened: TranslatorBundle, sides: Mapping[str, dict[str, Any]], decoder: Constants, folder: Path
) -> None:
    """Write config.json and generation_config.json; the start of an output is its padding, as kdserve's students do."""
    from transformers import BertConfig, EncoderDecoderConfig, GenerationConfig

    rules = opened.settings.generation
    padding = (read_object(opened.folder / SOURCE_NAME).get("padding") or {}).get("pad_id", 0)
    ends = list(rules.end_ids)
    tokens = {"pad_token_id": rules.start_id, "bos_token_id": rules.start_id, "eos_token_id": ends[0]}
    never = np.flatnonzero(decoder.arrays["never"] < 0).tolist() if "never" in decoder.arrays else None
    with quiet_transformers():
        reads = BertConfig(**sides[ENCODER_NAME], pad_token_id=padding)
        writes = BertConfig(**sides[DECODER_NAME], **tokens, is_decoder=True, add_cross_attention=True)
        config = EncoderDecoderConfig.from_encoder_decoder_configs(reads, writes, **tokens)
        config.decoder_start_token_id = rules.start_id
        config.architectures = ["EncoderDecoderModel"]
        config.save_pretrained(folder)
        GenerationConfig(
            decoder_start_token_id=rules.start_id,
            pad_token_id=rules.start_id,
            eos_token_id=ends if len(ends) > 1 else ends[0],
            forced_bos_token_id=rules.forced_start_id,
            forced_eos_token_id=rules.forced_end_id,
            num_beams=rules.num_beams,
            length_penalty=rules.length_penalty,
            early_stopping=_EARLY[rules.early_stopping],
            no_repeat_ngram_size=rules.no_repeat_ngram,
            keep_numbers=rules.keep_numbers,
            keep_names=rules.keep_names,
            max_run=rules.max_run,
            min_new_tokens=rules.min_tokens or None,
            suppress_tokens=never,
        ).save_pretrained(folder)


def _described(opened: TranslatorBundle, encoder: Constants) -> SequenceStudentSettings:
    return SequenceStudentSettings(
        **opened.settings.shared(), table_bits=BIT_WIDTHS.get(encoder.arrays["table"].dtype.name, 0)
    )
