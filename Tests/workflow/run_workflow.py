"""Runs the jobs of a GitHub workflow on this machine, as far as the workflows of this project go: steps with `run`, actions that are composed
of steps, and stand-ins for the few others. What it does not know it refuses.

    run = Run(workspace, local_action, prefix, environment)
    ok = run.workflow(yaml.safe_load(text))
"""
import pathlib
import re
import shlex
import shutil
import subprocess

import yaml


class Run:
    """
    Attributes:
        workspace: where the steps begin, as they see it.
        root: what stands before each path on this side; empty unless the steps run in a root of their own.
        prefix: the command that runs another in that root, with no environment but the one that it is given.
        environment: what all steps see.
        action: the folder of the action that the workflow is about, as the steps see it; it is used by whatever owner.
        cache: where caches are kept from run to run, on this side.
    """

    def __init__(self, workspace, root, prefix, environment, action, cache):
        self.workspace, self.root, self.prefix, self.environment, self.action, self.cache = workspace, root, prefix, environment, action, cache
        self.log, self.artifacts, self.summary = [], {}, ""

    def here(self, path):
        path = path if path.startswith("/") else f"{self.workspace}/{path}"
        return pathlib.Path(f"{self.root}{path}")

    def workflow(self, workflow):
        return all([self.steps(job["steps"], {}, job.get("env", {})) for job in workflow["jobs"].values()])

    def steps(self, steps, inputs, env):
        """Runs steps; gives whether all of them succeeded, and leaves their outputs in `self.outputs`."""
        outputs, ok = {}, True
        for number, step in enumerate(steps):
            context = {"inputs": inputs, "steps": outputs, "ok": ok}
            name = step.get("name") or step.get("uses") or step["run"].splitlines()[0]
            condition = step.get("if")
            if not (self.condition(condition, context) if condition else ok):
                self.note(f"skipped  {name}")
                continue
            self.note(f"step     {name}")
            step_env = {**env, **{key: self.text(value, context) for key, value in step.get("env", {}).items()}}
            given = {key: self.text(value, context) for key, value in step.get("with", {}).items()}
            done, found = self.run(step, step_env, inputs, number) if "run" in step else self.use(step["uses"], given, step_env)
            outputs[step.get("id", f"step {number}")] = found
            if not done:
                self.note(f"failed   {name}")
                ok = False
        self.outputs = outputs
        return ok

    def note(self, text):
        print(f"      {text}", flush=True)
        self.log.append(text)

    # MARK: Expressions

    def text(self, value, context):
        return re.sub(r"\$\{\{\s*(.*?)\s*\}\}", lambda match: self.value(match[1], context), str(value))

    def value(self, expression, context):
        if match := re.fullmatch(r"inputs\.([\w-]+)", expression):
            return context["inputs"][match[1]]
        if match := re.fullmatch(r"steps\.([\w-]+)\.outputs\.([\w-]+)", expression):
            return context["steps"].get(match[1], {}).get(match[2], "")
        if match := re.fullmatch(r"'([^']*)'", expression):
            return match[1]
        raise ValueError(f"an expression that is not known: {expression}")

    def condition(self, condition, context):
        parts = [part.strip() for part in str(condition).split("&&")]
        # Without a function that says otherwise, a step runs after successes alone.
        holds = "always()" in parts or context["ok"]
        for part in parts:
            if part == "always()":
                continue
            match = re.fullmatch(r"(\S+)\s*(==|!=)\s*(\S+)", part)
            if not match:
                raise ValueError(f"a condition that is not known: {part}")
            same = self.value(match[1], context) == self.value(match[3], context)
            holds = holds and same == (match[2] == "==")
        return holds

    # MARK: Steps

    def run(self, step, env, inputs, number):
        runner = self.here("/runner")
        runner.mkdir(exist_ok=True)
        files = {name: f"/runner/{name.lower()}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV", "GITHUB_PATH")}
        for path in files.values():
            self.here(path).write_text("")
        script = "/runner/step.sh"
        self.here(script).write_text(step["run"])
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", script] if step.get("shell") == "bash" else ["sh", "-e", script]
        env = {
            **self.environment, **files, **env, "CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": self.workspace, "RUNNER_TEMP": "/runner",
        }
        command = f"cd {shlex.quote(self.workspace)} && exec {shlex.join(shell)}"
        done = subprocess.run(
            [*self.prefix, "/usr/bin/env", "-i", *[f"{key}={value}" for key, value in env.items()], "/bin/sh", "-c", command], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.log += done.stdout.splitlines()
        for line in done.stdout.splitlines()[-12:]:
            print(f"      │ {line[:200]}")
        self.summary += self.here(files["GITHUB_STEP_SUMMARY"]).read_text()
        for name in ("GITHUB_ENV", "GITHUB_PATH"):
            if self.here(files[name]).read_text():
                raise ValueError(f"a step wrote to {name}")
        pairs = (line.split("=", 1) for line in self.here(files["GITHUB_OUTPUT"]).read_text().splitlines())
        return done.returncode == 0, dict(pairs)

    def use(self, action, given, env):
        name = action.split("@")[0]
        if name == "actions/checkout":
            return True, {}
        if name == "actions/cache":
            kept, wanted = self.cache / given["key"], self.here(given["path"])
            if kept.exists():
                shutil.copytree(kept, wanted, dirs_exist_ok=True)
            # GitHub saves the folder at the end of a job; whoever owns this run calls `save`.
            self.pending = (kept, wanted)
            return True, {"cache-hit": "true" if kept.exists() else ""}
        if name == "actions/upload-artifact":
            folder = self.here(given["path"])
            self.artifacts[given["name"]] = {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else {}
            return folder.exists(), {}
        if name == "github/codeql-action/upload-sarif":
            file = self.here(given["sarif_file"])
            self.artifacts["alerts"] = {file.name: file.read_bytes()} if file.exists() else {}
            return file.exists(), {}
        if name.endswith("/.github/actions/verify-merge"):
            definition = yaml.safe_load(self.here(f"{self.action}/action.yml").read_text())
            unknown = set(given) - set(definition["inputs"])
            if unknown:
                raise ValueError(f"inputs that the action does not have: {unknown}")
            inputs = {key: given.get(key, str(value.get("default", ""))) for key, value in definition["inputs"].items()}
            ok = self.steps(definition["runs"]["steps"], inputs, {**env, "GITHUB_ACTION_PATH": self.action})
            context = {"inputs": inputs, "steps": self.outputs, "ok": ok}
            return ok, {key: self.text(value["value"], context) for key, value in definition["outputs"].items()}
        raise ValueError(f"an action that is not known: {action}")

    def save(self):
        """Keeps what the job has put into its cache."""
        kept, folder = self.pending
        if folder.exists() and not kept.exists():
            shutil.copytree(folder, kept)
