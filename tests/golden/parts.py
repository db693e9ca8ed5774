"""The parts of a recording: what each runs, and what of it is kept."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import names
import numpy as np
import torch
from measures import Values, all_numbers, digest, npz, npz_files, numbers, one, pixels, together, weights
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file as load_tensors

from alitok import Pipeline
from alitok.apps.convert.layout import generator_from_released, tokenizer_from_released
from alitok.core.images import to_float

ROOT = Path(__file__).resolve().parents[2]
NOISE = 0.2


class Workshop:
    """A folder in which commands run, each in a new process with one thread, and the model they share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self.environment["ALITOK_CACHE"] = str(folder / "cache")

    def start(self, name: str, **places: Any) -> subprocess.Popen[str]:
        words = [word.format(**places) for word in names.COMMANDS[name].split()]
        return subprocess.Popen(
            [sys.executable, "-m", "alitok", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str, **places: Any) -> str:
        process = self.start(name, **places)
        output, errors = process.communicate(timeout=900)
        if process.returncode:
            raise SystemExit(f"alitok {name} ended with {process.returncode}:\n{output[-2000:]}\n{errors[-2000:]}")
        return output

    @cached_property
    def demo(self) -> Path:
        """A short run."""
        self.run("demo", out=self.folder / "demo")
        return self.folder / "demo"

    @cached_property
    def model(self) -> Path:
        """The run's models with noise on all weights: after so few steps, classes and guidance change too little."""
        model, rng = self.folder / "model", np.random.default_rng(0)
        shutil.copytree(self.demo / names.MODEL, model)
        for path in sorted(model.rglob("*.safetensors")):
            with safe_open(path, "np") as file:
                metadata = file.metadata()
            arrays = dict(sorted(load_arrays(path).items()))
            for name, array in arrays.items():
                if array.dtype == np.float32:
                    arrays[name] = array + rng.normal(0, NOISE, array.shape).astype(np.float32)
            save_arrays(arrays, path, metadata)
        return model

    @cached_property
    def photos(self) -> Path:
        """A folder of small noisy images in two classes; one is there twice."""
        rng, place = np.random.default_rng(0), self.folder / "photos"
        for number in range(12):
            image = rng.integers(0, 256, (20 + number, 31 - number, 3), dtype=np.uint8)
            path = place / ("ant", "bee")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        (place / "ant" / "again.png").write_bytes((place / "ant" / "0.png").read_bytes())
        return place


def demo(shop: Workshop) -> Values:
    found = json.loads((shop.demo / "metrics.json").read_text())
    return {"metrics": numbers(found), "weights": weights(shop.demo / names.MODEL)}


def sample(shop: Workshop) -> Values:
    shop.run("sample", model=shop.model, out=shop.folder / "samples.npz")
    with np.load(shop.folder / "samples.npz") as file:
        found: Values = {"pixels": one(file["arr_0"]), "labels": one(file["arr_1"])}
    pipeline = Pipeline.from_pretrained(shop.model, device="cpu")
    found["codes"] = {name: one(names.sample_codes(pipeline, settings)) for name, settings in names.SAMPLING.items()}
    return found


def evaluations(shop: Workshop) -> Values:
    """Of the run's models as they are: with noise, no sample would be near a real image, and many numbers zero."""
    found: Values = {}
    for name in ("generation", "reconstruction"):
        out = shop.folder / name
        shop.run(name, model=shop.demo / names.MODEL, out=out)
        found[name] = numbers(json.loads((out / "evaluation.json").read_text()))
        found[name]["features_on_disk"] = npz_files(out.rglob("*.npz"))
    return found


def store(shop: Workshop) -> Values:
    found: Values = {}
    for name, data, crops in (("digits", "digits", names.SINGLE_CROP), ("folder", shop.photos, names.MULTI_CROP)):
        out = shop.folder / f"store-{name}"
        shop.run("encode", model=shop.model, data=data, crops=crops, out=out)
        codes, labels = (np.concatenate([np.load(path) for path in sorted(out.glob(each))]) for each in names.STORED)
        found[name] = {"codes": one(codes), "labels": one(labels), "rows": len(codes), "labelled": len(labels)}
        output = shop.folder / f"{name}.json"
        shop.run("inspect", data=data, out=output, sheet=output.with_suffix(".png"))
        found[name]["inspect"] = numbers(json.loads(output.read_text()))
    return found


def resume(shop: Workshop) -> Values:
    """A stage 1 that is stopped by SIGTERM in its middle and started again, beside that of the demo."""
    out = shop.folder / "resumed"
    process = shop.start("train", out=out)
    log = out / names.STEP_LOG
    while process.poll() is None and not (log.is_file() and '"step": 10' in log.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    found: Values = {
        "status_when_stopped": process.returncode,
        "stopped_before_the_end": not (out / names.STAGE1).exists(),
    }
    shop.run("train", out=out)
    resumed, whole = weights(out / names.STAGE1), weights(shop.demo / names.TOKENIZER)
    return found | {"weights": resumed, "equal": all(resumed[part] == whole[part] for part in names.STAGE1_PARTS)}


def plan(shop: Workshop) -> Values:
    """Nothing is measured here, so keys that are left out elsewhere are kept."""
    return all_numbers(json.loads(shop.run("plan")))


@torch.no_grad()
def parity(shop: Workshop) -> Values:
    torch.set_num_threads(1)
    small, official = ROOT / "tests" / "released_small", ROOT.parent / "shared" / "official_v1"
    found: Values = {"small": _small_parity(small), "official_is_here": official.is_dir()}
    return found | ({"official": _official_parity(official)} if official.is_dir() else {})


def _small_parity(folder: Path) -> Values:
    expected = load_tensors(folder / "expected.safetensors")
    images, classes = to_float(expected["images_uint8"]), expected["class_ids"]
    states = (load_tensors(folder / f"stage{n}.safetensors") for n in (1, 2))
    first, second = (tokenizer_from_released(state, encoder_heads=2, decoder_heads=2) for state in states)
    generator = generator_from_released(load_tensors(folder / "generator.safetensors"), heads=2, prefix=5, grid=4)
    result, codes = first(images, "stage1"), names.greedy_codes(generator, classes.tolist())
    return {
        "codes_equal": torch.equal(result.codes, expected["codes"]),
        "greedy_equal": torch.equal(codes, expected["greedy_ids"]),
        "stage1": _near(result.images, expected["stage1_reconstruction"]),
        "strip": _near(result.prefix_strip, expected["prefix_reconstruction"]),
        "stage2": _near(second.reconstruct(images), expected["stage2_reconstruction"]),
        "logits": _near(generator(expected["codes"], classes), expected["logits"]),
    }


def _official_parity(folder: Path) -> Values:
    def load(name: str) -> dict[str, torch.Tensor]:
        return load_tensors(folder / f"{name}.safetensors")

    expected, last, generated = load("stage1_expected"), load("stage2_expected"), load("ar_expected")
    heads = {"encoder_heads": 4, "decoder_heads": 6}
    first, second = (tokenizer_from_released(load(f"stage{n}_state"), **heads) for n in (1, 2))
    generator = generator_from_released(load("ar_state"), heads=4)
    result, codes = first(to_float(expected["images_uint8"]), "stage1"), last["codes"].long()
    ids, classes, sure = generated["token_ids"].long(), generated["class_ids"], generated["greedy_margin"] > 1e-3
    null, greedy = torch.full_like(classes, generator.null_class), names.greedy_codes(generator, classes.tolist())
    return {
        "codes_equal": torch.equal(result.codes, expected["codes"].long()),
        "codes2_equal": torch.equal(second.encode(to_float(last["images_uint8"])), codes),
        "greedy_equal": torch.equal(greedy[sure], generated["greedy_ids_scale6_pow0.7"].long()[sure]),
        "greedy": one(greedy),
        "stage1": _near(result.images[..., ::4, ::4], expected["reconstruction"]),
        "strip": _near(result.prefix_strip[..., ::2, ::4], expected["prefix_reconstruction"]),
        "stage2": _near(second.decode(codes)[..., ::4, ::4], last["reconstruction"]),
        "logits": _near(generator(ids, classes)[:, ::16], generated["logits_cond"]),
        "logits_of_no_class": _near(generator(ids, null)[:, ::16], generated["logits_uncond"]),
    }


def _near(ours: torch.Tensor, theirs: torch.Tensor) -> Values:
    error = (ours - theirs).abs().max().item()
    return {"hash": one(ours), "error": error, "near": error < 1e-4 * theirs.abs().max().item()}


def serve(shop: Workshop) -> Values:
    """One request after the other: how those of several clients share batches depends on their times."""
    process = shop.start("serve", model=shop.model)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://\S+", line)
        if address is None:
            raise SystemExit(f"The service did not start: {line}{process.communicate(timeout=60)[1][-2000:]}")
        with httpx.Client(base_url=address[0], timeout=120) as client:
            found = _answers(client)
    finally:
        process.terminate()
        process.communicate(timeout=120)
    return found | {"status_when_stopped": process.returncode}


def _answers(client: httpx.Client) -> Values:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(file, "PNG")
    upload = {"files": [(names.UPLOAD, ("a.png", file.getvalue(), "image/png"))]}
    begun = {names.UPLOAD: base64.b64encode(file.getvalue()).decode(), "rows": 2}
    mixed = {"top_k": 9, "temperature": 0.7, "guidance_scale": 5.0, "guidance_schedule": "linear", "format": "webp"}

    def ask(method: str, route: str, **more: Any) -> Values:
        answer = client.request(method, names.ROUTES.get(route, route), **more)
        return {"status": answer.status_code} | (numbers(answer.json()) if answer.status_code == 200 else {})

    coded = client.post(names.ROUTES["encode"], files=upload["files"] * 2)
    return {
        "health": ask("GET", "health"),
        "models": ask("GET", "models"),
        "one": ask("POST", "images", json={"classes": [3], "seed": 7}),
        "mix": ask("POST", "images", json={"classes": ["7", 0, 3], "count": 2, "seed": 5, **mixed}),
        "complete": ask("POST", "images", json={"classes": [1, 2], "seed": 3, "completion": begun}),
        "stream": _streamed(client.post(names.ROUTES["stream"], json={"classes": ["4", 9], "seed": 4})),
        "encode": {"status": coded.status_code} | numbers(coded.json()),
        "decode": ask("POST", "decode", json={names.CODES: coded.json()[names.CODES]}),
        "decode_stage1": ask("POST", "decode", json={names.CODES: coded.json()[names.CODES][:1], "stage": "stage1"}),
        "reconstruct": ask("POST", "reconstruct", **upload),
        "no_such_class": ask("POST", "images", json={"classes": ["cat"]}),
        "no_such_field": ask("POST", "images", json={"classes": [0], "gidance": 1}),
        "no_such_route": ask("GET", "/v1/nothing"),
    }


def _streamed(answer: httpx.Response) -> Values:
    """How many events there are of each kind, and all images in them, in any order: pairs of rows may be swapped."""
    blocks = [block.split("\n") for block in answer.text.strip().split("\n\n") if not block.startswith(":")]
    counts = Counter(event.removeprefix("event: ") for event, _ in blocks)
    output = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    images = together(pixels(each["data"]) for each in output if "data" in each)
    return {"status": answer.status_code, "events": dict(counts), "images": images}


def probe(shop: Workshop) -> Values:
    out = shop.folder / "probe"
    shop.run("probe", model=shop.model, out=out)
    output = json.loads((out / "probe.json").read_text())
    return {"numbers": numbers(output["numbers"]), "layout": numbers(output["layout"]), "maps": npz(out / "maps.npz")}


def ablate(shop: Workshop) -> Values:
    shop.run("ablate", out=shop.folder / "ablation")
    return numbers(json.loads((shop.folder / "ablation" / "ablation.json").read_text()))


def convert(shop: Workshop) -> Values:
    there, back, states = shop.folder / "converted", shop.folder / "back", ROOT / "tests" / "released_small"
    shop.run("convert", states=states, out=there)
    shop.run("convert back", model=there, out=back)
    found: Values = {"weights": weights(there)}
    for name, source in names.RELEASED_BACK.items():
        state = torch.load(back / name, map_location="cpu", weights_only=True)
        state = state.get("model_state", state)
        ours = digest(sorted((key, value.numpy()) for key, value in state.items()))
        found[f"{source}_equal"] = ours == digest(sorted(load_arrays(states / f"{source}.safetensors").items()))
    return found


PARTS: dict[str, Callable[[Workshop], Values]] = {
    "demo": demo,
    "sample": sample,
    "eval": evaluations,
    "store": store,
    "resume": resume,
    "plan": plan,
    "parity": parity,
    "serve": serve,
    "probe": probe,
    "ablate": ablate,
    "convert": convert,
}
