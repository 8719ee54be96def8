"""Runs inside a peer's own environment: opens one model, then times it whenever the driver asks.

    python worker.py PEER WORK THREADS          (or: prepare STEP WORK)

Standard library and the peer's packages only. Reads one JSON command a line and answers with one JSON line:
{"time": [...texts], "size": texts a call} -> seconds of each call and CPU seconds; {"encode": [...], "to": FILE.npy};
{"memory": true}. WORK holds `teacher/`, a sentence-transformers folder, and what the prepare steps made of it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Encode = Callable[[list[str]], np.ndarray]
BATCH = 32
MAX_TOKENS = 256
CALIBRATION = 128


def main() -> None:
    if sys.argv[1] == "prepare":
        PREPARE[sys.argv[2]](Path(sys.argv[3]))
        return
    name, work, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    encode = open_peer(name, work, threads)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    encode(["ready"])
    say(answers, {"ready": name})
    for line in sys.stdin:
        command = json.loads(line)
        if "time" in command:
            say(answers, timed(encode, command["time"], command["size"]))
        elif "encode" in command:
            np.save(command["to"], encode(command["encode"]))
            say(answers, {"saved": command["to"]})
        else:
            say(answers, {"peak_bytes": memory("VmHWM:"), "steady_bytes": memory("VmRSS:")})


def open_peer(name: str, work: Path, threads: int) -> Encode:
    if name.startswith("kdserve "):
        return kdserve_bundle(name.removeprefix("kdserve "), threads)
    return OPENERS[name](work, threads)


def timed(encode: Encode, texts: list[str], size: int) -> dict[str, Any]:
    calls, cpu = [], time.process_time()
    for start in range(0, len(texts), size):
        begin = time.perf_counter()
        encode(texts[start : start + size])
        calls.append(time.perf_counter() - begin)
    return {"calls_s": calls, "cpu_s": time.process_time() - cpu}


def say(answers: Any, record: dict[str, Any]) -> None:
    answers.write(json.dumps(record) + "\n")
    answers.flush()


def memory(field: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(field))


# --- the peers -------------------------------------------------------------------------------------------------------


def kdserve_bundle(folder: str, threads: int) -> Encode:
    from kdserve import Encoder

    return Encoder.load(folder, num_threads=threads).encode_document


def sentence_transformers_torch(work: Path, threads: int) -> Encode:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(work / "teacher"), device="cpu")
    return lambda texts: model.encode(texts, batch_size=BATCH, show_progress_bar=False)


def sentence_transformers_bf16(work: Path, threads: int) -> Encode:
    import torch

    plain = sentence_transformers_torch(work, threads)

    def encode(texts: list[str]) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16):
            return plain(texts)

    return encode


def sentence_transformers_onnx(work: Path, threads: int, *, file: str = "onnx/model.onnx") -> Encode:
    import onnxruntime
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    kwargs = {"file_name": file, "provider": "CPUExecutionProvider", "session_options": options}
    model = SentenceTransformer(str(work / "teacher-onnx"), backend="onnx", device="cpu", model_kwargs=kwargs)
    return lambda texts: model.encode(texts, batch_size=BATCH, show_progress_bar=False)


def sentence_transformers_onnx_int8(work: Path, threads: int) -> Encode:
    return sentence_transformers_onnx(work, threads, file="onnx/model_qint8_avx512_vnni.onnx")


def fastembed(work: Path, threads: int) -> Encode:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model="local/teacher",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="local/teacher"),
        dim=384,
        model_file="onnx/model.onnx",
    )
    model = TextEmbedding("local/teacher", specific_model_path=str(work / "teacher-onnx"), threads=threads)
    return lambda texts: np.array(list(model.embed(texts, batch_size=BATCH)))


def onnxruntime_graph(work: Path, threads: int, *, file: str = "model.onnx") -> Encode:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    path = str(work / "teacher-onnx" / "onnx" / file)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = {node.name for node in session.get_inputs()}

    def forward(feeds: dict[str, np.ndarray]) -> np.ndarray:
        return session.run(None, {name: feeds[name] for name in names})[0]

    return mean_pooling(tokenizer_of(work), forward)


def onnxruntime_int8(work: Path, threads: int) -> Encode:
    return onnxruntime_graph(work, threads, file="model_qint8_avx512_vnni.onnx")


def openvino_graph(work: Path, threads: int, *, file: str = "openvino/fp32.xml") -> Encode:
    import openvino

    model = openvino.Core().compile_model(
        str(work / file), "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    )
    names = {node.any_name for node in model.inputs}
    return mean_pooling(tokenizer_of(work), lambda feeds: model({name: feeds[name] for name in names})[0])


def openvino_int8(work: Path, threads: int) -> Encode:
    return openvino_graph(work, threads, file="openvino/int8.xml")


def model2vec(work: Path, _threads: int) -> Encode:
    from model2vec import StaticModel

    model = StaticModel.from_pretrained(str(work / "model2vec"))

    def encode(texts: list[str]) -> np.ndarray:
        vectors = model.encode(texts)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    return encode


def tokenizer_of(work: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(work / "teacher" / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()
    return tokenizer


def mean_pooling(tokenizer: Any, forward: Callable[[dict[str, np.ndarray]], np.ndarray]) -> Encode:
    """What a careful user writes around a bare graph: sort by length, small batches, mean, unit length."""

    def encode(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = np.empty((len(texts), 384), np.float32)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            feeds = model_inputs(tokenizer, [texts[i] for i in rows])
            hidden, mask = forward(feeds), feeds["attention_mask"][:, :, None].astype(np.float32)
            pooled = (hidden * mask).sum(axis=1) / mask.sum(axis=1)
            out[rows] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return out

    return encode


def model_inputs(tokenizer: Any, texts: Sequence[str]) -> dict[str, np.ndarray]:
    encodings = tokenizer.encode_batch(list(texts))
    ids = np.array([encoding.ids for encoding in encodings], np.int64)
    mask = np.array([encoding.attention_mask for encoding in encodings], np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


OPENERS: dict[str, Callable[[Path, int], Encode]] = {
    "sentence-transformers torch fp32": sentence_transformers_torch,
    "sentence-transformers torch bf16": sentence_transformers_bf16,
    "sentence-transformers onnx fp32": sentence_transformers_onnx,
    "sentence-transformers onnx int8": sentence_transformers_onnx_int8,
    "fastembed": fastembed,
    "onnxruntime fp32": onnxruntime_graph,
    "onnxruntime int8": onnxruntime_int8,
    "openvino fp32": openvino_graph,
    "openvino int8": openvino_int8,
    "model2vec": model2vec,
}


# --- what has to be made once ----------------------------------------------------------------------------------------


def prepare_onnx(work: Path) -> None:
    """Optimum's export of the teacher, and its standard dynamic int8 form."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.backend import export_dynamic_quantized_onnx_model

    folder = str(work / "teacher-onnx")
    model = SentenceTransformer(str(work / "teacher"), backend="onnx", device="cpu")
    model.save_pretrained(folder)
    export_dynamic_quantized_onnx_model(model, "avx512_vnni", folder)


def prepare_openvino(work: Path) -> None:
    """The exported graph in OpenVINO's form, and quantised by NNCF with the texts in calibration.json."""
    import nncf
    import openvino

    model = openvino.convert_model(str(work / "teacher-onnx" / "onnx" / "model.onnx"))
    openvino.save_model(model, str(work / "openvino" / "fp32.xml"), compress_to_fp16=False)
    tokenizer = tokenizer_of(work)
    names = {node.any_name for node in model.inputs}
    texts = json.loads((work / "calibration.json").read_text(encoding="utf-8"))[:CALIBRATION]
    feeds = [{k: v for k, v in model_inputs(tokenizer, [text]).items() if k in names} for text in texts]
    quantised = nncf.quantize(model, nncf.Dataset(feeds), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(quantised, str(work / "openvino" / "int8.xml"))


def prepare_model2vec(work: Path) -> None:
    """A static model of the same teacher, as model2vec distils it by default."""
    from model2vec.distill import distill

    distill(str(work / "teacher"), device="cpu").save_pretrained(str(work / "model2vec"))


PREPARE: dict[str, Callable[[Path], None]] = {
    "onnx": prepare_onnx,
    "openvino": prepare_openvino,
    "model2vec": prepare_model2vec,
}

if __name__ == "__main__":
    main()
