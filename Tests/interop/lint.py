#!/usr/bin/env python3
"""Asks the programs that serve models whether they take an adapter, and compares `oplora lint`.

    python lint.py --oplora PROGRAM --for diffusers         # with the packages of requirements-diffusion.txt
    python lint.py --oplora PROGRAM --for mlx               # with those of requirements-mlx.txt

diffusers loads each file into a small random pipeline of the family and fuses it: it takes the file if no error comes and the fused weights are
those of `oplora merge`. mlx-lm loads the folder into a small model with its own loader, which refuses keys that it does not know. lint_vllm.py and
lint_llama.py ask the other two programs.
`lint` must give the same answer in each case, and what `oplora convert --to diffusers` makes of a file is taken. One line a case; exits 1 if any differs.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
RANK = 4


def lint(oplora, path, program):
    run = subprocess.run([oplora, "lint", path, "--for", program, "--json"], capture_output=True, text=True)
    if run.returncode not in (0, 1):
        return None, run.stderr.strip()
    verdict = json.loads(run.stdout)["programs"][0]
    return verdict["takes"], "; ".join(verdict["reasons"])


# diffusers

def diffusers_cases(oplora, folder):
    import diffusers
    import torch
    from safetensors.torch import load_file, save_file

    diffusers.utils.logging.set_verbosity(60)
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    generator = torch.Generator().manual_seed(5)

    def flux():
        return diffusers.FluxPipeline(None, None, None, None, None, None, diffusers.FluxTransformer2DModel(
            patch_size=1, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
            pooled_projection_dim=12, axes_dims_rope=[4, 4, 8], guidance_embeds=True))

    def flux2():
        return diffusers.Flux2Pipeline(None, None, None, None, diffusers.Flux2Transformer2DModel(
            patch_size=1, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
            timestep_guidance_channels=8, axes_dims_rope=[4, 4, 4, 4]))

    def qwen():
        return diffusers.QwenImagePipeline(None, None, None, None, diffusers.QwenImageTransformer2DModel(
            patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=16,
            axes_dims_rope=(4, 4, 8)))

    def zimage():
        return diffusers.ZImagePipeline(None, None, None, None, diffusers.ZImageTransformer2DModel(
            in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16, axes_dims=[4, 4, 8], axes_lens=[8, 8, 8]))

    def wan():
        return diffusers.WanPipeline(None, None, None, None, diffusers.WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2))

    def ltx():
        return diffusers.LTXPipeline(None, None, None, None, diffusers.LTXVideoTransformer3DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, num_layers=2, caption_channels=16))

    def hidream():
        return diffusers.HiDreamImagePipeline(None, None, None, None, None, None, None, None, None, None, diffusers.HiDreamImageTransformer2DModel(
            patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=4,
            caption_channels=[32, 16], text_emb_dim=64, num_routed_experts=4, num_activated_experts=2, axes_dims_rope=(4, 2, 2),
            max_resolution=(32, 32), llama_layers=(0, 1)))

    def sdxl():
        unet = diffusers.UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 12), norm_num_groups=4, layers_per_block=2, cross_attention_dim=12, attention_head_dim=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
        return diffusers.StableDiffusionXLPipeline(None, None, None, None, None, unet, None)

    def file(name, modules, shapes, names, metadata=None, alpha=None, extra=None):
        """A file of factors for modules; names(module) gives the keys of A, B and alpha."""
        tensors = {}
        for number, (module, shape) in enumerate(zip(modules, shapes)):
            down, up, scale = names(module)
            tensors[down] = torch.randn(RANK, shape[1], generator=generator) * 0.1
            tensors[up] = torch.randn(shape[0], RANK, generator=generator) * 0.1
            if alpha is not None:
                tensors[scale] = torch.tensor(float(alpha(number)))
            for ending, value in (extra or {}).items():
                tensors[scale.removesuffix("alpha") + ending] = value(shape)
        path = folder / f"{name}.safetensors"
        save_file(tensors, path, metadata=metadata)
        return path

    def ab(prefix, infix=""):
        return lambda m: (f"{prefix}{m}.lora_A{infix}.weight", f"{prefix}{m}.lora_B{infix}.weight", f"{prefix}{m}.alpha")

    def downup(prefix):
        return lambda m: (f"{prefix}{m}.lora_down.weight", f"{prefix}{m}.lora_up.weight", f"{prefix}{m}.alpha")

    def kohya(prefix="lora_unet_"):
        return lambda m: downup(prefix)(m.replace(".", "_"))

    half, whole = (lambda n: 2), (lambda n: RANK)
    flux_double = ["double_blocks.0.img_attn.qkv", "double_blocks.0.img_attn.proj", "double_blocks.1.txt_mlp.0"]
    flux_ours = ["transformer_blocks.0.attn.to_q", "transformer_blocks.1.ff.net.0.proj", "single_transformer_blocks.0.proj_mlp"]
    flux_names = {"double_blocks.0.img_attn.qkv": "transformer_blocks.0.attn.to_q", "double_blocks.0.img_attn.proj": "transformer_blocks.0.attn.to_out.0",
                  "double_blocks.1.txt_mlp.0": "transformer_blocks.1.ff_context.net.0.proj", "img_in": "x_embedder",
                  "final_layer.adaLN_modulation.1": "norm_out.linear", "double_stream_modulation_img.lin": "double_stream_modulation_img.linear"}
    flux2_names = flux_names | {"double_blocks.1.txt_mlp.0": "transformer_blocks.1.ff_context.linear_in",
                                "single_blocks.0.linear1": "single_transformer_blocks.0.attn.to_qkv_mlp_proj"}
    flux2_double = flux_double + ["single_blocks.0.linear1"]
    wan_rows = {f"{a}.{x}": f"{b}.{y}" for a, b in (("self_attn", "attn1"), ("cross_attn", "attn2"))
                for x, y in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))} | {"ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2"}
    wan_names = {f"blocks.{n}.{a}": f"blocks.{n}.{b}" for n in range(2) for a, b in wan_rows.items()}
    wan_some = ["blocks.0.self_attn.q", "blocks.1.ffn.0"]
    z_names = {"layers.0.attention.qkv": "layers.0.attention.to_q", "layers.0.attention.out": "layers.0.attention.to_out.0"}
    unet_modules = [f"down_blocks.1.attentions.0.transformer_blocks.0.{x}" for x in ("attn1.to_q", "attn2.to_k", "ff.net.2")]
    ldm = {m: m.replace("down_blocks.1.attentions.0", "input_blocks.4.1") for m in unet_modules}
    norm = {"dora_scale": lambda shape: torch.ones(shape[0], 1)}
    qwen_modules = ["transformer_blocks.0.attn.to_q", "transformer_blocks.1.img_mlp.net.2", "transformer_blocks.0.attn.add_v_proj"]
    z_modules = ["layers.0.attention.to_q", "layers.1.feed_forward.w2", "context_refiner.0.attention.to_out.0"]
    ltx_modules = ["transformer_blocks.0.attn1.to_q", "transformer_blocks.1.ff.net.2"]
    qwen_outer = ["img_in", "txt_in", "proj_out", "norm_out.linear", "time_text_embed.timestep_embedder.linear_1"]
    z_outer = ["all_x_embedder.2-1", "all_final_layer.2-1.linear", "all_final_layer.2-1.adaLN_modulation.1", "t_embedder.mlp.0", "cap_embedder.1"]
    z_authors = {"final_layer.linear": "all_final_layer.2-1.linear"}
    hidream_modules = ["final_layer.adaLN_modulation.1", "final_layer.linear", "double_stream_blocks.0.block.attn1.to_q"]
    wan_ours = ["blocks.0.attn1.to_q", "blocks.1.ffn.net.2"]

    # Pipeline, name, modules, names of the keys, what else.
    cases = [
        (sdxl, "native", unet_modules, ab("unet."), {}),
        (sdxl, "native, an alpha beside the factors", unet_modules, ab("unet."), {"alpha": half}),
        (sdxl, "kohya", unet_modules, kohya(), {"alpha": half}),
        (sdxl, "kohya, no alpha", unet_modules, kohya(), {}),
        (sdxl, "kohya, the authors' names", list(ldm.values()), kohya(), {"alpha": half, "names": {v: k for k, v in ldm.items()}}),
        (sdxl, "kohya, alpha 0", unet_modules, kohya(), {"alpha": lambda n: 0}),
        (sdxl, "kohya, dora_scale", unet_modules, kohya(), {"alpha": half, "extra": norm}),
        (sdxl, "dotted dora_scale", unet_modules, downup("unet."), {"alpha": half, "extra": norm}),
        (sdxl, "under lycoris_", unet_modules, kohya("lycoris_"), {"alpha": half}),
        (sdxl, "under transformer.", unet_modules, ab("transformer."), {}),
        (sdxl, "wrapped", unet_modules, ab("_orig_mod.unet."), {}),
        (sdxl, "an alpha in the header", unet_modules, ab("unet."), {"metadata": {"lora_alpha": "1"}}),
        (sdxl, "the authors' names under unet.", list(ldm.values()), downup("unet."), {"alpha": half, "names": {v: k for k, v in ldm.items()}}),
        (flux, "native", flux_ours, ab("transformer."), {}),
        (flux, "native, an alpha beside the factors", flux_ours, ab("transformer."), {"alpha": half}),
        (flux, "kohya", flux_double, kohya(), {"alpha": half, "names": flux_names}),
        (flux, "kohya, diffusers' names", flux_ours[:2], kohya(), {"alpha": half}),
        (flux, "kohya, outside of the blocks", flux_double + ["img_in"], kohya(), {"alpha": half, "names": flux_names}),
        (flux, "under diffusion_model.", flux_double, ab("diffusion_model."), {"names": flux_names}),
        (flux, "the authors' names under transformer.", flux_double, ab("transformer."), {"names": flux_names}),
        (flux, "under unet.", flux_ours, ab("unet."), {}),
        (flux, "an alpha in the header", flux_ours, ab("transformer."), {"metadata": {"transformer.lora_alpha": "1", "transformer.r": "4"}}),
        (flux, "bare", flux_ours, ab(""), {}),
        (qwen, "native", qwen_modules, ab("transformer."), {}),
        (qwen, "native, an alpha beside the factors", qwen_modules, ab("transformer."), {"alpha": half}),
        (qwen, "under diffusion_model.", qwen_modules, ab("diffusion_model."), {}),
        (qwen, "under diffusion_model., down and up", qwen_modules, downup("diffusion_model."), {"alpha": half}),
        (qwen, "kohya", qwen_modules, kohya(), {"alpha": half}),
        (qwen, "kohya, outside of the blocks", qwen_modules + qwen_outer, kohya(), {"alpha": half}),
        (qwen, "infix", qwen_modules, ab("transformer.", ".default"), {}),
        (qwen, "bare, infix", qwen_modules, ab("", ".default"), {}),
        (qwen, "bare", qwen_modules, ab(""), {}),
        (zimage, "bare, infix", z_modules, ab("", ".default"), {}),
        (zimage, "native", z_modules, ab("transformer."), {}),
        (zimage, "native, an alpha beside the factors", z_modules, ab("transformer."), {"alpha": half}),
        (zimage, "under diffusion_model.", z_modules, ab("diffusion_model."), {}),
        (zimage, "under diffusion_model., fused", list(z_names), ab("diffusion_model."), {"names": z_names}),
        (zimage, "kohya", z_modules, kohya(), {"alpha": half}),
        (zimage, "kohya, fused", list(z_names), kohya(), {"alpha": half, "names": z_names}),
        (zimage, "kohya, outside of the blocks", z_modules + z_outer, kohya(), {"alpha": half}),
        (zimage, "kohya, the authors' names outside of the blocks", z_modules + list(z_authors), kohya(), {"alpha": half, "names": z_authors}),
        (hidream, "native", hidream_modules, ab("transformer."), {}),
        (wan, "native", wan_ours, ab("transformer."), {}),
        (wan, "native, an alpha beside the factors", wan_ours, ab("transformer."), {"alpha": half}),
        (wan, "under diffusion_model.", wan_some, ab("diffusion_model."), {"names": wan_names}),
        (wan, "under diffusion_model., down and up", wan_some, downup("diffusion_model."), {"names": wan_names}),
        (wan, "under diffusion_model., down, up and alpha", wan_some, downup("diffusion_model."), {"alpha": half, "names": wan_names}),
        (wan, "kohya, every layer", list(wan_names), kohya(), {"alpha": half, "names": wan_names}),
        (wan, "kohya, some layers", wan_some, kohya(), {"alpha": half, "names": wan_names}),
        (wan, "the authors' names under transformer.", wan_some, ab("transformer."), {"names": wan_names}),
        (flux2, "under diffusion_model.", flux2_double, ab("diffusion_model."), {"names": flux2_names}),
        (flux2, "under diffusion_model., down and up", flux2_double, downup("diffusion_model."), {"names": flux2_names}),
        (flux2, "kohya", flux2_double, kohya(), {"alpha": half, "names": flux2_names}),
        (flux2, "kohya, a modulation", flux2_double + ["double_stream_modulation_img.lin"], kohya(), {"alpha": half, "names": flux2_names}),
        (flux2, "PEFT's names", flux2_double, ab("base_model.model."), {"names": flux2_names, "metadata": {"alpha": "4"}}),
        (ltx, "native", ltx_modules, ab("transformer."), {}),
        (ltx, "under diffusion_model.", ltx_modules, ab("diffusion_model."), {}),
        (ltx, "under diffusion_model., down and up", ltx_modules, downup("diffusion_model."), {}),
    ]
    def judged(pipeline, model, path, want):
        """Whether diffusers fuses the weights that are wanted, and why not."""
        try:
            pipeline.load_lora_weights(str(path))
            model.fuse_lora()
            model.unload_lora()
            found = model.state_dict()
            off = [key for key in want if (found[key] - want[key]).abs().max() > 1e-5 * want[key].abs().max()]
            return not off, f"{len(off)} weights are others" if off else ""
        except Exception as error:
            return False, f"{type(error).__name__}: {str(error)[:120]}"

    saved = {}
    for build, title, modules, keys, others in cases:
        torch.manual_seed(3)
        pipeline = build()
        component = "unet" if build is sdxl else "transformer"
        model, base = getattr(pipeline, component), folder / build.__name__
        if build not in saved:
            torch.manual_seed(3)
            model.save_pretrained(base)
            saved[build] = {key: value.clone() for key, value in model.state_dict().items()}
        model.load_state_dict(saved[build])
        ours = others.pop("names", {})
        shapes = []
        for module in modules:
            shape = list(model.get_submodule(ours.get(module, module)).weight.shape)
            shapes.append([shape[0] * (3 if module.endswith("qkv") else 1), shape[1]])
        path = file(f"{build.__name__}-{title.replace(' ', '-').replace('/', '')}", modules, shapes, keys, **others)
        merged = folder / (path.stem + "-merged")
        run = subprocess.run([oplora, "merge", "--base", base, "--adapter", path, "--out", merged, "--no-fsync", "--quiet"], capture_output=True, text=True)
        if run.returncode:
            yield f"{build.__name__}, {title}", path, None, run.stderr.strip()
            continue
        want = load_file(merged / "diffusion_pytorch_model.safetensors")
        yield f"{build.__name__}, {title}", path, *judged(pipeline, model, path, want)
        # What lint advises.
        advised = folder / (path.stem + "-advised")
        run = subprocess.run([oplora, "convert", path, "--to", "diffusers", "--base", base, "--out", advised, "--quiet"], capture_output=True, text=True)
        model.load_state_dict(saved[build])
        is_taken, why = (None, run.stderr.strip()) if run.returncode else judged(pipeline, model, advised / "pytorch_lora_weights.safetensors", want)
        if not is_taken and "dora_scale" not in title:
            yield f"{build.__name__}, {title}, converted to diffusers' layout", advised, None, why


# mlx-lm

def mlx_cases(oplora, folder):
    import mlx.core as mx
    import numpy as np
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    from adapters_mlx import HIDDEN, LLAMA, write_base
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    write_base(folder / "base", LLAMA)
    plain = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": RANK, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}}

    def factors(names, rank=RANK, extra=()):
        tensors = {}
        for name in names:
            tensors |= {f"{name}.lora_a": np.ones((HIDDEN, rank), np.float32), f"{name}.lora_b": np.ones((rank, 32), np.float32)}
            tensors |= {f"{name}.m": np.ones(32, np.float32) for _ in extra}
        return tensors

    layers = [f"model.layers.{n}.self_attn.q_proj" for n in range(2)]

    def changed(**fields):
        parameters = plain["lora_parameters"] | fields.pop("parameters", {})
        return {k: v for k, v in (plain | {"lora_parameters": {k: v for k, v in parameters.items() if v is not ...}} | fields).items() if v is not ...}

    cases = [
        ("two layers", plain, factors(layers)), ("the last layer", changed(num_layers=1), factors(layers[1:])),
        ("num_layers of 0", changed(num_layers=0), factors(layers)),
        ("more layers than num_layers", changed(num_layers=1), factors(layers)),
        ("DoRA", changed(fine_tune_type="dora"), factors(layers, extra=[1])),
        ("a key too many", changed(parameters={"keys": ["self_attn.q_proj", "self_attn.v_proj"]}), factors(layers)),
        ("no keys", changed(parameters={"keys": ...}), factors(layers)),
        ("a key too few", changed(parameters={"keys": ["self_attn.v_proj"]}), factors(layers)),
        ("another rank", changed(parameters={"rank": 8}), factors(layers)), ("no rank", changed(parameters={"rank": ...}), factors(layers)),
        ("no dropout", changed(parameters={"dropout": ...}), factors(layers)), ("no num_layers", changed(num_layers=...), factors(layers)),
        ("ranks that differ", plain, factors(layers[:1]) | factors(layers[1:], rank=2)),
        ("wrapped", plain, factors(["_orig_mod." + name for name in layers])), ("base_model in front", plain, factors(["base_model." + name for name in layers])),
    ]
    for title, configuration, tensors in cases:
        path = folder / title.replace(" ", "-")
        path.mkdir()
        mx.save_safetensors(str(path / "adapters.safetensors"), {k: mx.array(v) for k, v in tensors.items()})
        (path / "adapter_config.json").write_text(json.dumps(configuration))
        try:
            model, _ = load_model(folder / "base")
            load_adapters(model, str(path))
            yield title, path, True, ""
        except Exception as error:
            yield title, path, False, f"{type(error).__name__}: {str(error)[:120]}"
    yield from mlx_family_cases(oplora, folder)


def mlx_family_cases(oplora, folder):
    """PEFT's adapters of families that mlx-lm has other names for, or no layer that it adapts: what is written is taken, and the rest refused."""
    import importlib
    import numpy as np
    from mlx_lm.tuner.utils import load_adapters
    from safetensors.numpy import save_file

    common = dict(vocab_size=32, hidden_size=32, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2)
    deepseek = common | dict(num_key_value_heads=4, moe_intermediate_size=8, n_shared_experts=1, n_routed_experts=4, num_experts_per_tok=2, kv_lora_rank=16,
                             q_lora_rank=16, qk_rope_head_dim=8, v_head_dim=8, qk_nope_head_dim=8)
    lfm2 = common | dict(moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True, max_position_embeddings=64,
                         use_expert_bias=True, num_dense_layers=1, norm_eps=1e-5, conv_bias=False, conv_L_cache=3, layer_types=["full_attention"])
    # Family, its configuration, a module, its outputs and inputs, and whether mlx-lm adapts it.
    cases = [
        ("mixtral", common | dict(num_local_experts=4), "mlp.gate", (4, 32), True),
        ("lfm2_moe", lfm2, "feed_forward.w2", (32, 16), True),
        ("deepseek_v3", deepseek, "self_attn.q_b_proj", (64, 16), True),
        ("deepseek_v3", deepseek, "mlp.shared_experts.up_proj", (8, 32), True),
        ("deepseek_v3", deepseek, "self_attn.kv_b_proj", (64, 16), False),
        ("deepseek_v3", deepseek, "mlp.gate", (4, 32), False),
    ]
    for family, configuration, module, (outputs, inputs), is_adapted in cases:
        title = f"{family}, {module}"
        place = folder / title.replace(", ", "-")
        for name in ("base", "adapter"):
            (place / name).mkdir(parents=True)
        (place / "base" / "config.json").write_text(json.dumps(configuration | {"model_type": family}))
        name = f"model.layers.0.{module}"
        save_file({f"{name}.weight": np.zeros((outputs, inputs), np.float32)}, place / "base" / "model.safetensors")
        save_file({f"base_model.model.{name}.lora_A.weight": np.ones((RANK, inputs), np.float32),
                   f"base_model.model.{name}.lora_B.weight": np.ones((outputs, RANK), np.float32)}, place / "adapter" / "adapter_model.safetensors")
        (place / "adapter" / "adapter_config.json").write_text(json.dumps(
            {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": [module.rpartition(".")[2]]}))
        run = subprocess.run([oplora, "convert", place / "adapter", "--to", "mlx", "--base", place / "base", "--out", place / "mlx", "--quiet"],
                             capture_output=True, text=True)
        if (run.returncode == 0) != is_adapted:
            yield title, place / "mlx", None, run.stderr.strip() or "written"
        if run.returncode or not is_adapted:
            continue
        try:
            arguments = importlib.import_module(f"mlx_lm.models.{family}")
            model = arguments.Model(arguments.ModelArgs.from_dict(configuration | {"model_type": family}))
            load_adapters(model, str(place / "mlx"))
            yield title, place / "mlx", True, ""
        except Exception as error:
            yield title, place / "mlx", False, f"{type(error).__name__}: {str(error)[:120]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    parser.add_argument("--for", dest="program", choices=["diffusers", "mlx"], required=True)
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        found = {"diffusers": diffusers_cases, "mlx": mlx_cases}[options.program](options.oplora, folder)
        counts = {True: 0, False: 0}
        for title, path, takes, why in found:
            said, reasons = lint(options.oplora, path, options.program)
            counts[takes] = counts.get(takes, 0) + 1
            failed += said != takes
            print(f"{'ok  ' if said == takes else 'FAIL'}  {title}: {'taken' if takes else 'refused' if takes is False else 'not judged'}"
                  f"{f' ({why})' if why else ''}; lint: {reasons or ('yes' if said else said)}", flush=True)
        print(f"{counts[True]} taken, {counts[False]} refused, lint differs in {failed}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
