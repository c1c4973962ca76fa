"""One backend translating one file, timed: python decode.py BACKEND MODEL JOB.json

BACKEND is regard[:int8|:bf16], ctranslate2[:int8] or huggingface. MODEL is a regard model directory; for Hugging Face
it has to be of Marian's shape (post-norm, sinusoids) or Pegasus' (pre-norm). The others get the same weights through
regard.interop. JOB: {"sources": ids without end mark, "beam", "batch_tokens", "threads", "max_extra", "device",
"precision": fp32 or bf16}. All search alike: score / length, a sentence is done when as many hypotheses have ended as
the beam is wide. Reading the model and a first batch, in which weights are laid out, are not timed; with "again" in
the job the first time that all are translated is not either. The last line of the output is a JSON object with the ids
that were found.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from regard import directory
from regard.machine import devices
from regard.machine.memory import keep_memory
from regard.text.marks import source_ids

Ids = list[list[int]]


def batches(sources: Ids, budget: int) -> list[list[int]]:
    """Indices, longest first, sentences × longest side within the budget: for backends that cannot do it themselves."""
    order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
    cut: list[list[int]] = [[]]
    for i in order:
        if cut[-1] and (len(cut[-1]) + 1) * (len(sources[cut[-1][0]]) + 1) > budget:
            cut.append([])
        cut[-1].append(i)
    return cut


def regard(loaded: directory.Loaded, job: dict[str, Any], precision: str = "") -> Callable[[Ids], Ids]:
    from regard.accel.prepared import quantize
    from regard.decoding.backends import build_backend
    from regard.decoding.search import LengthPenalty, Search
    from regard.decoding.waiting import inputs_of

    search = Search(
        beam=job["beam"], length_penalty=LengthPenalty.parse("power:1.0"), stopping="first", max_extra=job["max_extra"]
    )

    if precision == "int8":
        loaded = dataclasses.replace(loaded, model=quantize(loaded.model))
    else:
        loaded.model.to(devices.dtype(precision or job["precision"]))
    backend = build_backend("regard", loaded)

    def translate(sources: Ids) -> Ids:
        results = backend(inputs_of(sources), search, job["batch_tokens"] * job["beam"])
        return [result.hypotheses[0].ids for result in results]

    return translate


def marian(loaded: directory.Loaded) -> Any:
    """The same weights as a MarianMTModel, or in pre-norm as the Pegasus model, which is Marian's in that order.

    Positions are given as a table, in whichever order ours has them.
    """
    from transformers import MarianConfig, MarianMTModel, PegasusConfig, PegasusForConditionalGeneration

    from regard.interop.marian import MARIAN
    from regard.interop.specials import config_ids
    from regard.nn.positions import Sinusoidal, sinusoids

    model: Any = loaded.model
    interleaved, pre = model.options.positions.interleaved, model.options.order == "pre"
    model.options = dataclasses.replace(model.options, positions=Sinusoidal(interleaved=False))
    final = {}
    if pre:
        model.options = dataclasses.replace(model.options, order="post", final_norm=False)
        for side in ("encoder", "decoder"):
            stack = getattr(model, side)
            final |= {f"model.{side}.layer_norm.{name}": value for name, value in stack.norm.state_dict().items()}
            stack.norm = None
    config, weights = MARIAN.export_model(model)
    config |= config_ids(loaded.text.settings, "translation")
    if pre:
        del config["model_type"], config["architectures"]
        theirs: Any = PegasusForConditionalGeneration(PegasusConfig(**config)).eval()
    else:
        theirs = MarianMTModel(MarianConfig(**config)).eval()
    weights |= final
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    untied = [name for name in missing if not any(word in name for word in ("embed", "lm_head"))]
    assert not unexpected and not untied, (unexpected, untied)
    theirs.tie_weights()
    positions = sinusoids(1024, config["d_model"], interleaved=interleaved)
    for side in (theirs.model.encoder, theirs.model.decoder):
        side.embed_positions.weight.data.copy_(positions)
    return theirs


def huggingface(loaded: directory.Loaded, job: dict[str, Any]) -> Callable[[Ids], Ids]:
    device = next(loaded.model.parameters()).device
    model, settings = marian(loaded).to(device, devices.dtype(job["precision"])), loaded.settings

    @torch.inference_mode()
    def translate(sources: Ids) -> Ids:
        found: Ids = [[] for _ in sources]
        for rows in batches(sources, job["batch_tokens"]):
            longest = len(sources[rows[0]]) + 1
            ids = torch.full((len(rows), longest), settings.pad)
            for place, i in enumerate(rows):
                ids[place, : len(sources[i]) + 1] = torch.tensor(source_ids(settings, sources[i]))
            ids = ids.to(device)
            outputs = model.generate(
                input_ids=ids, attention_mask=(ids != settings.pad).long(), num_beams=job["beam"], do_sample=False,
                length_penalty=1.0, early_stopping=True, max_new_tokens=longest + job["max_extra"],
                forced_eos_token_id=None,
            )  # fmt: skip
            for i, row in zip(rows, outputs.tolist(), strict=True):
                row = row[1:]
                found[i] = row[: row.index(settings.ends[0])] if settings.ends[0] in row else row
        return found

    return translate


def ctranslate2(loaded: directory.Loaded, job: dict[str, Any], precision: str = "float32") -> Callable[[Ids], Ids]:
    from regard.decoding.ctranslate2 import CTranslate2

    settings = loaded.settings
    threads = job["threads"] or torch.get_num_threads()
    backend = CTranslate2(loaded.model, settings, precision=precision, device=job["device"], threads=threads)

    def translate(sources: Ids) -> Ids:
        # Its own interface, so that nothing of ours is timed with it.
        results = backend.translator.translate_batch(
            [[str(i) for i in source_ids(settings, ids)] for ids in sources], beam_size=job["beam"], length_penalty=1.0,
            max_batch_size=job["batch_tokens"], batch_type="tokens", max_input_length=0,
            max_decoding_length=max(map(len, sources)) + 1 + job["max_extra"],
        )  # fmt: skip
        return [[int(piece) for piece in result.hypotheses[0]] for result in results]

    return translate


def main() -> None:
    backend, folder, job = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text(encoding="utf-8"))
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    keep_memory()
    loaded = directory.load(folder, job["device"])
    backends = {"regard": regard, "huggingface": huggingface, "ctranslate2": ctranslate2}
    kind, _, precision = backend.partition(":")
    translate = backends[kind](loaded, job, precision) if precision else backends[kind](loaded, job)
    translate(job["sources"][: None if job.get("again") else 128])
    start = time.perf_counter()
    found = translate(job["sources"])
    seconds = time.perf_counter() - start
    tokens = sum(len(ids) + 1 for ids in found)
    print(json.dumps({"seconds": seconds, "target_tokens": tokens, "sentences": len(found), "ids": found}))


if __name__ == "__main__":
    main()
