#!/usr/bin/env python3
"""Gives the reports of `oplora` to those that they are for: JUnit to junitparser, SARIF to its published schema, JSON to the schemas of
formats/, and pages to Chromium, in light and dark, on a desk and on a phone.

    python3 Tests/interop/reports.py --oplora PROGRAM --sarif-schema FILE [--base MODEL] [--chromium PROGRAM] [--pictures FOLDER]

A model is merged rightly by oplora, and wrongly by numpy. With --pictures the pages are also kept as pictures. Ends with 1 if a report
is not taken, or a page is not as it should be.
"""
import argparse
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

import junitparser
import jsonschema
import numpy as np
from playwright.sync_api import sync_playwright

ROOT = pathlib.Path(__file__).resolve().parents[2]
failures = 0


def check(what, holds, detail=""):
    global failures
    failures += not holds
    print(f"{'ok  ' if holds else 'FAIL'} {what}{': ' + str(detail) if detail != '' else ''}", flush=True)


# MARK: Models


def read(path):
    """The tensors of a safetensors file in BF16 as F32, and its header."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, info in header.items():
        raw = np.frombuffer(data, np.uint16, count=int(np.prod(info["shape"])), offset=8 + size + info["data_offsets"][0])
        tensors[name] = (raw.astype(np.uint32) << 16).view(np.float32).reshape(info["shape"])
    return tensors


def write(path, tensors, dtype, others={}):
    """Rounds to BF16, ties to even; `others` are the types of single tensors."""
    header, parts, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, values in tensors.items():
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        type_ = others.get(name, dtype)
        rounded = np.where(np.isnan(values).reshape(bits.shape), bits >> 16, (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16)
        raw = rounded.astype(np.uint16).tobytes() if type_ == "BF16" else bits.tobytes()
        header[name] = {"dtype": type_, "shape": list(values.shape), "data_offsets": [offset, offset + len(raw)]}
        parts.append(raw)
        offset += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def make_adapter(folder, weights, rank=8):
    """An adapter of PEFT of all linear layers, with random factors."""
    folder.mkdir()
    random = np.random.default_rng(7)
    factors = {}
    for name, weight in weights.items():
        if name.endswith("_proj.weight"):
            module = "base_model.model." + name.removesuffix(".weight")
            factors[module + ".lora_A.weight"] = random.standard_normal((rank, weight.shape[1]), np.float32) / rank
            # Layers differ in how much they were trained, and so in what rounding leaves.
            size = 10 ** random.uniform(-3.6, -1.2)
            factors[module + ".lora_B.weight"] = size * random.standard_normal((weight.shape[0], rank), np.float32)
    write(folder / "adapter_model.safetensors", factors, "F32")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}))


def make_wrong(folder, right, base, merged):
    """A copy of a right merge with a fault of several kinds."""
    shutil.copytree(right, folder)
    out = dict(merged)
    layers = 1 + max(int(name.split(".")[2]) for name in base if name.startswith("model.layers."))

    def name(layer, module):
        return f"model.layers.{layer % layers}.{module}.weight"

    def change(key, factor):
        out[key] = base[key] + factor * (merged[key] - base[key])

    change(name(1, "self_attn.o_proj"), 0)
    change(name(2, "mlp.down_proj"), 2)
    change(name(3, "mlp.gate_proj"), -1)
    one, two = name(layers // 2, "self_attn.v_proj"), name(layers // 2 + 1, "self_attn.v_proj")
    out[one], out[two] = base[one] + merged[two] - base[two], base[two] + merged[one] - base[one]
    spoiled = out[name(layers - 1, "mlp.up_proj")].copy()
    spoiled[5, 7] += 0.5
    out[name(layers - 1, "mlp.up_proj")] = spoiled
    extra = out["model.norm.weight"].copy()
    extra[0] *= 2
    out["model.norm.weight"] = extra
    write(folder / "model.safetensors", out, "BF16")


# MARK: Reports


def check_reports(args, work, kind, base):
    """In the folder of the models, so that reports name no path of this machine."""
    command = [args.oplora, "verify", "--base", base, "--adapter", "adapter", "--merged", kind, "--prompts", "prompts.txt"]
    files = {name: work / f"{kind}.{name}" for name in ("xml", "sarif", "html", "json")}
    run = subprocess.run(
        command + ["--junit", files["xml"], "--sarif", files["sarif"], "--html", files["html"], "--json", files["json"], "--quiet"],
        capture_output=True, text=True, cwd=work)
    check(f"{kind}: exit code", run.returncode == (0 if kind == "right" else 1), run.returncode)
    report = json.loads(files["json"].read_text())
    faulty = {fault["module"] for fault in report["faults"]}
    cases = [case for suite in junitparser.JUnitXml.fromfile(str(files["xml"])) for case in suite]
    failed = {case.name for case in cases if any(isinstance(result, junitparser.Failure) for result in case.result)}
    check(f"{kind}: junitparser reads {len(cases)} cases", failed == faulty and len(cases) >= len(report["modules"]) + 1, f"{len(failed)} failed")
    for name, document, schema in (
        ("SARIF, its published schema", json.loads(files["sarif"].read_text()), json.loads(args.sarif_schema.read_text())),
        ("JSON, formats/verify.schema.json", report, json.loads((ROOT / "formats/verify.schema.json").read_text())),
    ):
        validator = jsonschema.validators.validator_for(schema)
        validator.check_schema(schema)
        errors = list(validator(schema, format_checker=validator.FORMAT_CHECKER).iter_errors(document))
        check(f"{kind}: {name}", not errors, f"{len(errors)} errors {errors[:1] or ''}")
    sarif = json.loads(files["sarif"].read_text())["runs"][0]
    rules = {rule["id"] for rule in sarif["tool"]["driver"]["rules"]}
    check(f"{kind}: SARIF rules", {result["ruleId"] for result in sarif["results"]} == {fault["code"] for fault in report["faults"]} <= rules)
    github = subprocess.run(command + ["--github"], capture_output=True, text=True, cwd=work).stdout.splitlines()
    check(f"{kind}: an annotation for each fault", sum(line.startswith("::") for line in github) == max(1, len(report["faults"])))
    diff = subprocess.run([args.oplora, "diff", base, kind, "--json"], capture_output=True, text=True, cwd=work)
    schema = json.loads((ROOT / "formats/diff.schema.json").read_text())
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(json.loads(diff.stdout)))
    check(f"{kind}: diff against the base, formats/diff.schema.json", diff.returncode == 1 and not errors, f"{len(errors)} errors")
    return files["html"], report


# MARK: Pages

VIEWS = {"light": (1100, 900, "light"), "dark": (1100, 900, "dark"), "phone": (390, 844, "light")}
# What a page says of itself: how wide it is, which parts lie on each other, and how texts stand out.
SURVEY = """() => {
  const box = e => e.getBoundingClientRect();
  const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  const heats = [...document.querySelectorAll('.heat')];
  const covered = heats.flatMap(h => {
    const cells = [...h.querySelectorAll('i')].map(box);
    return [...h.querySelectorAll('.kind,.step')].filter(l => cells.some(c => over(box(l), c)));
  }).length;
  const cut = heats.flatMap(h => [...h.querySelectorAll('.kind span')].filter(e => {
    const a = box(e), b = box(e.parentElement);
    return a.height - b.height > 1 || a.width - b.width > 1;
  })).length;
  const channels = text => text.match(/[\\d.]+/g).slice(0, 3).map(x => { x /= 255; return x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4; });
  const light = text => { const [r, g, b] = channels(text); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$|transparent/.test(c)) return c; } return 'rgb(255,255,255)'; };
  const contrasts = [...document.querySelectorAll('h1,h2,h3,p,td,th,.tile b,.tile span,.legend span,.heat .kind,.heat .step')].filter(e => e.textContent.trim()).map(e => {
    const a = light(getComputedStyle(e).color), b = light(ground(e));
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  });
  return {width: document.documentElement.scrollWidth, cells: document.querySelectorAll('.heat i:not(.none)').length, covered, cut,
    contrast: Math.min(...contrasts), background: getComputedStyle(document.body).backgroundColor,
    small: Math.min(...[...document.querySelectorAll('p,td,th')].map(e => parseFloat(getComputedStyle(e).fontSize)))};
}"""


def check_pages(args, pages):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        for kind, (page_path, modules) in pages.items():
            backgrounds = {}
            for view, (width, height, scheme) in VIEWS.items():
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                messages, requests = [], []
                page.on("console", lambda message: messages.append(message.text))
                page.on("pageerror", lambda error: messages.append(str(error)))
                page.on("request", lambda request: requests.append(request.url))
                page.goto(page_path.resolve().as_uri())
                survey = page.evaluate(SURVEY)
                backgrounds[view] = survey["background"]
                holds = (
                    survey["width"] <= width and survey["cells"] == modules and survey["covered"] == 0 and survey["cut"] == 0
                    and survey["contrast"] >= 4.5 and survey["small"] >= 11.5 and not messages and len(requests) == 1)
                check(
                    f"{kind} page, {view}", holds,
                    f"{survey['width']} of {width} px wide, {survey['cells']} cells, {survey['covered']} labels covered, {survey['cut']} cut, "
                    f"contrast {survey['contrast']:.1f}, {len(requests) - 1} further requests {' '.join(messages)}")
                if args.pictures and (kind == "wrong" or view == "light"):
                    args.pictures.mkdir(parents=True, exist_ok=True)
                    page.screenshot(path=args.pictures / f"verify-{kind}-{view}.png", full_page=False)
                page.close()
            check(f"{kind} page: dark is another page", backgrounds["dark"] != backgrounds["light"])
        browser.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    parser.add_argument("--sarif-schema", type=pathlib.Path, required=True)
    parser.add_argument("--base", type=pathlib.Path, default=ROOT / "fixtures/tiny-llama")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    parser.add_argument("--pictures", type=pathlib.Path)
    args = parser.parse_args()
    args.oplora = str(pathlib.Path(args.oplora).resolve())
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        (work / "prompts.txt").write_text("In the beginning God created the heaven and the earth.\nAnd God said,\n")
        base = args.base.name
        (work / base).symlink_to(args.base.resolve())
        weights = read(args.base / "model.safetensors")
        make_adapter(work / "adapter", weights)
        subprocess.run(
            [args.oplora, "merge", "--base", base, "--adapter", "adapter", "--out", "right", "--no-fsync", "--quiet"], check=True, cwd=work)
        make_wrong(work / "wrong", work / "right", weights, read(work / "right/model.safetensors"))
        pages = {}
        for kind in ("right", "wrong"):
            page, report = check_reports(args, work, kind, base)
            pages[kind] = (page, len(report["modules"]))
        check_pages(args, pages)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
