"""Adapters that vLLM takes and adapters that it refuses, judged by vLLM's own code, beside what `oplora lint --for vllm` says.

    python lint_vllm.py [--oplora PROGRAM] [--wheel FILE]      prints a line for each case; exit code 1 on a disagreement

vLLM itself does not start without an accelerator, but the code that reads an adapter is plain Python: `PEFTHelper` (configuration),
`parse_fine_tuned_lora_name` and `LoRAModel.from_local_checkpoint` (names and tensors) are taken out of its wheel, which pip downloads (300 MB)
where none is named, and are run on the modules of a Llama. What they import from the rest of vLLM is a name here. The engine is asked with
max_lora_rank 512, the largest that it can be started with. `lint` sees the adapter alone, so every case is one that the adapter decides.
"""
import argparse
import ast
import json
import logging
import pathlib
import subprocess
import sys
import tempfile
import types
import zipfile

import torch
from safetensors.torch import save_file

WHEEL = "vllm==0.33.0"
WIDTH, KEYS, INNER, VOCABULARY, RANK = 32, 16, 48, 64, 4
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (KEYS, WIDTH), "self_attn.v_proj": (KEYS, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH), "mlp.down_proj": (WIDTH, INNER),
}
# What vLLM's engine collects from a Llama: its linear layers, packed ones by the names of their parts, and the embedding modules.
EXPECTED_MODULES = {name.split(".")[1] for name in SHAPES} | {"embed_tokens", "lm_head"}


class VLLM:
    """The part of vLLM that reads adapters."""

    def __init__(self, wheel):
        archive = zipfile.ZipFile(wheel)

        def source(name):
            return archive.read(f"vllm/lora/{name}.py").decode()

        def module(name, **members):
            made = types.ModuleType(name)
            made.__dict__.update(members)
            sys.modules[name] = made
            return made

        logger = logging.getLogger("vllm")
        logger.info_once = logger.info
        for name in ("vllm", "vllm.lora", "vllm.config", "vllm.model_executor", "vllm.model_executor.models", "vllm.utils"):
            module(name).__path__ = []
        module("vllm.config.lora", LoRAConfig=object)
        module("vllm.logger", init_logger=lambda name: logger)
        module("vllm.utils.torch_utils", PIN_MEMORY=False)
        module("vllm.model_executor.models.utils", WeightsMapper=object, PPMissingLayer=object)
        helper = module("vllm.lora.peft_helper")
        exec(compile(source("peft_helper"), "peft_helper.py", "exec"), helper.__dict__)
        weights = module("vllm.lora.lora_weights")
        exec(compile(source("lora_weights"), "lora_weights.py", "exec"), weights.__dict__)
        # Of the file with the names only the functions that need nothing else of vLLM.
        utilities = module("vllm.lora.utils", WeightsMapper=object)
        wanted = {"get_lora_id", "parse_fine_tuned_lora_name", "is_base_embedding_weights"}
        tree = ast.parse(source("utils"))
        tree.body = [
            node for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name in wanted
            or isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_GLOBAL_LORA_ID"]
        exec(compile(tree, "utils.py", "exec"), utilities.__dict__)
        model = module("vllm.lora.lora_model")
        exec(compile(source("lora_model"), "lora_model.py", "exec"), model.__dict__)
        self.helper, self.model = helper.PEFTHelper, model.LoRAModel

    def load(self, folder):
        """Raises what vLLM raises; returns the scale of each module."""
        helper = self.helper.from_local_dir(str(folder), None)
        helper.validate_legal(types.SimpleNamespace(max_lora_rank=512))
        loaded = self.model.from_local_checkpoint(
            str(folder), EXPECTED_MODULES, helper, device="cpu", dtype=torch.float32, model_vocab_size=VOCABULARY)
        for name, part in loaded.loras.items():
            if part.lora_a is None or part.lora_b is None:
                raise ValueError(f"{name} lacks a factor")
        return loaded


def factors(module, rank=RANK, layer=0):
    out, inputs = SHAPES[module]
    path = f"base_model.model.model.layers.{layer}.{module}"
    return {f"{path}.lora_A.weight": torch.randn(rank, inputs), f"{path}.lora_B.weight": torch.randn(out, rank)}


def cases(folder):
    """Yields a title and the path of an adapter."""
    query = factors("self_attn.q_proj")
    every = {name: value for layer in range(2) for module in SHAPES for name, value in factors(module, layer=layer).items()}

    def peft(title, tensors, without=(), **fields):
        path = folder / title.replace(" ", "-").replace(",", "")
        path.mkdir()
        configuration = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"} | fields
        for name in without:
            del configuration[name]
        (path / "adapter_config.json").write_text(json.dumps(configuration))
        save_file(tensors, path / "adapter_model.safetensors")
        return title, path

    embedding = {"base_model.model.model.embed_tokens.lora_embedding_A": torch.randn(RANK, VOCABULARY),
                 "base_model.model.model.embed_tokens.lora_embedding_B": torch.randn(WIDTH, RANK)}
    head = {"base_model.model.lm_head.lora_A.weight": torch.randn(RANK, WIDTH), "base_model.model.lm_head.lora_B.weight": torch.randn(VOCABULARY, RANK)}
    magnitude = {"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": torch.rand(WIDTH)}
    yield peft("one projection", query)
    yield peft("all linear layers", every, target_modules=list(EXPECTED_MODULES))
    yield peft("rsLoRA", query, use_rslora=True)
    yield peft("a rank pattern", query | factors("mlp.up_proj", rank=8), rank_pattern={"up_proj": 8}, target_modules=["q_proj", "up_proj"])
    yield peft("an alpha pattern", query | factors("mlp.up_proj"), alpha_pattern={"up_proj": 3}, target_modules=["q_proj", "up_proj"])
    yield peft("targets as an expression", query, target_modules=".*q_proj")
    yield peft("an embedding", query | embedding, target_modules=["q_proj", "embed_tokens"])
    yield peft("an embedding with its base values", query | embedding | {"base_model.model.model.embed_tokens.base_layer.weight": torch.randn(VOCABULARY, WIDTH)},
               target_modules=["q_proj", "embed_tokens"])
    yield peft("the head", query | head, target_modules=["q_proj", "lm_head"])
    yield peft("a Gaussian start", query, init_lora_weights="gaussian")
    yield peft("a score head", query | {"base_model.model.score.weight": torch.randn(2, WIDTH)}, modules_to_save=["score"], task_type="SEQ_CLS")
    yield peft("rank 512", factors("self_attn.q_proj", rank=512), r=512)
    yield peft("alpha 0", query, lora_alpha=0)
    yield peft("DoRA", query | magnitude, use_dora=True)
    yield peft("a bias on B", query | {"base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias": torch.randn(WIDTH)}, lora_bias=True)
    yield peft("trained biases", query | {"base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias": torch.randn(WIDTH)}, bias="lora_only")
    yield peft("a saved embedding", query | {"base_model.model.model.embed_tokens.weight": torch.randn(VOCABULARY, WIDTH)}, modules_to_save=["embed_tokens"])
    yield peft("a saved head", query | {"base_model.model.lm_head.weight": torch.randn(VOCABULARY, WIDTH)}, modules_to_save=["lm_head"])
    yield peft("trained tokens", query | {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.randn(2, WIDTH)},
               trainable_token_indices=[1, 2])
    yield peft("no target_modules", query, without=["target_modules"])
    yield peft("rank 1024", factors("self_attn.q_proj", rank=1024), r=1024)
    yield peft("a rank pattern beyond 512", query | factors("mlp.up_proj", rank=600), rank_pattern={"up_proj": 600}, target_modules=["q_proj", "up_proj"])
    yield peft("PiSSA", query, init_lora_weights="pissa")
    yield peft("replicated layers", query, layer_replication=[[0, 2], [1, 2]])
    yield peft("activated LoRA", query, alora_invocation_tokens=[1, 2])
    yield peft("QA-LoRA", query, use_qalora=True)
    yield peft("a LoHa", {f"base_model.model.model.layers.0.self_attn.q_proj.hada_w{n}_{ab}": torch.randn(*((WIDTH, RANK) if ab == "a" else (RANK, WIDTH)))
                          for n in (1, 2) for ab in "ab"}, peft_type="LOHA", alpha=8, without=["lora_alpha"])
    kohya = folder / "kohya.safetensors"
    save_file({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.randn(RANK, WIDTH),
               "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.randn(WIDTH, RANK)}, kohya)
    yield "a file of kohya", kohya


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", default=".build/release/oplora")
    parser.add_argument("--wheel")
    args = parser.parse_args()
    disagreements = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        wheel = args.wheel
        if not wheel:
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, WHEEL], check=True)
            wheel = next(folder.glob("vllm*.whl"))
        program = VLLM(wheel)
        for title, path in cases(folder):
            try:
                program.load(path)
                takes, why = True, ""
            except (ValueError, TypeError, OSError, RuntimeError, AttributeError) as error:
                takes, why = False, str(error)
            done = subprocess.run([args.oplora, "lint", path, "--for", "vllm"], capture_output=True, text=True)
            agrees = (done.returncode == 0) == takes
            disagreements += not agrees
            said = " ".join((done.stdout + done.stderr).split())
            print(f"{'ok   ' if agrees else 'FAIL '} {title}: vLLM {'takes it' if takes else 'refuses'}, lint {done.returncode}"
                  + ("" if agrees else f": {said[:200]} [vLLM: {why[:150]}]"), flush=True)
    sys.exit(1 if disagreements else 0)


main()
