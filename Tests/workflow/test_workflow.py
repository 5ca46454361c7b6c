#!/usr/bin/env python3
"""Executes the workflow that docs/ci.md gives to copy, in a root of its own: for a right merge, a wrong one, one that cannot be decided, and
one that is not there. scripts/test-workflow.sh makes the root.

    python3 Tests/workflow/test_workflow.py --oplora PROGRAM --root FOLDER --toolchain FOLDER
"""
import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import junitparser
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Tests/interop"))
import reports  # noqa: E402
from reports import check  # noqa: E402
from run_workflow import Run  # noqa: E402

WORKSPACE, MODELS = "/workspace", "/models"


def check_syntax(text):
    """The workflow and the action meet the schemas that GitHub's editors go by."""
    command = [str(pathlib.Path(sys.executable).parent / "check-jsonschema"), "--builtin-schema"]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        file.write(text)
        file.flush()
        for schema, path in (("vendor.github-workflows", file.name), ("vendor.github-actions", ROOT / ".github/actions/verify-merge/action.yml")):
            done = subprocess.run([*command, schema, str(path)], capture_output=True, text=True)
            check(f"{schema}", done.returncode == 0, done.stdout.strip())
    scripts = sorted((ROOT / ".github/actions").rglob("*.sh"))
    check("shell", all(subprocess.run(["bash", "-n", path]).returncode == 0 for path in scripts), f"{len(scripts)} scripts")


def make_models(args, folder):
    """Base, adapter and merged models, by name."""
    base = ROOT / "fixtures/tiny-llama"
    weights = reports.read(base / "model.safetensors")
    reports.make_adapter(folder / "adapter", weights)
    # One whose update BF16 cannot hold: weights that are zero would take any.
    dense = folder / "dense"
    shutil.copytree(base, dense)
    reports.write(dense / "model.safetensors", {name: value + (abs(value) < 1e-3) * 0.01 for name, value in weights.items()}, "BF16")
    tiny = folder / "tiny"
    shutil.copytree(folder / "adapter", tiny)
    configuration = json.loads((tiny / "adapter_config.json").read_text())
    (tiny / "adapter_config.json").write_text(json.dumps({**configuration, "lora_alpha": 1e-7}))
    for name, source, adapter in (("right", base, folder / "adapter"), ("undecided", dense, tiny)):
        subprocess.run(
            [args.oplora, "merge", "--base", source, "--adapter", adapter, "--out", folder / name, "--no-fsync", "--quiet"], check=True)
    reports.make_wrong(folder / "wrong", folder / "right", weights, reports.read(folder / "right/model.safetensors"))
    return {
        "right": (base, folder / "adapter", folder / "right"), "wrong": (base, folder / "adapter", folder / "wrong"),
        "undecided": (dense, tiny, folder / "undecided"), "missing": (base, folder / "adapter", None),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--toolchain", required=True)
    args = parser.parse_args()
    text = re.search(r"```yaml\n(name: verify merge\n.*?)```", (ROOT / "docs/ci.md").read_text(), re.DOTALL)[1]
    check_syntax(text)
    environment = {"HOME": "/root", "PATH": f"{args.toolchain}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        models = make_models(args, work)

        def run(name, **inputs):
            workflow = yaml.safe_load(text)
            for step in workflow["jobs"]["verify"]["steps"]:
                if "verify-merge@" in step.get("uses", ""):
                    step["with"].update(inputs)
            workspace = pathlib.Path(args.root + WORKSPACE)
            for stale in (workspace, pathlib.Path(args.root + MODELS), pathlib.Path(args.root + "/root/.cache")):
                shutil.rmtree(stale, ignore_errors=True)
            workspace.mkdir()
            for kind, source in zip(("base", "adapter", "merged"), models[name]):
                if source:
                    shutil.copytree(source, pathlib.Path(f"{args.root}{MODELS}/{kind}"))
            (workspace / "fetch-models.sh").write_text(f'#!/bin/sh\ncp -r {MODELS} "$1"\n')
            (workspace / "fetch-models.sh").chmod(0o755)
            (workspace / "prompts.txt").write_text("In the beginning God created the heaven and the earth.\n")
            print(f"\n{name} {inputs or ''}", flush=True)
            run = Run(WORKSPACE, args.root, ["chroot", args.root], environment, "/oplora/.github/actions/verify-merge", work / "cache")
            ok = run.workflow(workflow)
            run.save()
            return ok, run

        def reports_of(run):
            if not run.artifacts.get("oplora-reports"):
                sys.exit("FAIL  there are no reports")
            files = run.artifacts["oplora-reports"]
            cases = [case for suite in junitparser.JUnitXml.fromstring(files["verify.xml"]) for case in suite]
            return json.loads(files["verify.json"]), cases, files

        ok, done = run("right", **{"max-ulp": 0})
        report, cases, files = reports_of(done)
        check("right: the job succeeds", ok and report["verdict"] == "pass" and "step     Build oplora" in done.log)
        check("right: reports", len(cases) == len(report["modules"]) + 1 and set(files) == {"verify.json", "verify.xml", "verify.sarif", "verify.html"})
        check("right: a notice and the summary", any(line.startswith("::notice") for line in done.log) and "### oplora verify: pass" in done.summary)

        ok, done = run("wrong")
        report, cases, files = reports_of(done)
        check("wrong: the job fails, and its build comes from the cache", not ok and report["verdict"] == "fail" and "skipped  Build oplora" in done.log)
        errors = [line for line in done.log if line.startswith("::error")]
        check("wrong: an annotation for each fault", len(errors) == len(report["faults"]) >= 7, len(errors))
        check("wrong: reports are uploaded all the same", sum(bool(case.result) for case in cases) == len({fault["module"] for fault in report["faults"]}))
        alerts = json.loads(done.artifacts["alerts"]["verify.sarif"])["runs"][0]["results"]
        check("wrong: alerts", [alert["ruleId"] for alert in alerts] == [fault["code"] for fault in report["faults"]])
        check("wrong: the summary names them", all(fault["module"] in done.summary for fault in report["faults"]), done.summary.count("\n- "))

        ok, done = run("undecided", **{"min-survival": "", "min-argmax-agreement": 0})
        check("undecided: the job fails", not ok and reports_of(done)[0]["verdict"] == "inconclusive")
        ok, done = run("undecided", **{"min-survival": "", "min-argmax-agreement": 0, "allow-inconclusive": "true"})
        check("undecided: it may be allowed", ok and reports_of(done)[0]["verdict"] == "inconclusive")

        ok, done = run("missing")
        check("missing: the job fails with the reason", not ok and any(line.startswith("::error title=oplora%3A not verified::") and "models/merged" in line for line in done.log))
        check("missing: no alerts of what was not verified", "alerts" not in done.artifacts and "### oplora verify: error" in done.summary)
    sys.exit(1 if reports.failures else 0)


if __name__ == "__main__":
    main()
