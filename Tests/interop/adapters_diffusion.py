#!/usr/bin/env python3
"""Merges adapters of diffusion models, and compares the merged models with those that diffusers and LyCORIS merge.

    python adapters_diffusion.py --oplora PROGRAM [--only WORD] [--keep FOLDER]
    python adapters_diffusion.py --generate-only

Small random pipelines (Stable Diffusion 1.5, XL and Flux) are saved by diffusers. Adapters are made by diffusers with PEFT and by
LyCORIS, or written under the older names, those of kohya's sd-scripts and those of the original models, for diffusers or LyCORIS to
read. The reference is what the same library fuses, in F32: every tensor of a component that `oplora merge` wrote must be within 1e-5
of the largest element in it, tensors that the reference leaves alone must be the base's, every other file must be copied byte for
byte, and diffusers must load the merged pipeline. Then the adapter is converted: diffusers reads the file of its layout, and LyCORIS
that of kohya's where the U-Net alone is adapted, and each must fuse the same weights. One line a case; exits 1 if any fails. --generate-only makes adapters and references,
and merges nothing. Needs diffusers, transformers, peft and lycoris-lora.
"""

import argparse
import inspect
import logging
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest.mock
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is a local folder
warnings.filterwarnings("ignore")

import diffusers
import torch
import transformers as hf
from diffusers.loaders import lora_conversion_utils, lora_pipeline
from diffusers.training_utils import _collate_lora_metadata
from lycoris.config import PRESET
from lycoris.kohya import LycorisNetworkKohya, create_network, create_network_from_weights
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
for library in (diffusers.utils.logging, hf.utils.logging):
    library.set_verbosity_error()
    library.disable_progress_bar()
for name in ("LyCORIS", "diffusers", "transformers"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
# LyCORIS 4.1 finds the time embeddings of diffusers' U-Net twice, and stops.
for modules in [LycorisNetworkKohya.UNET_TARGET_REPLACE_MODULE, *(preset.get("unet_target_module", []) for preset in PRESET.values())]:
    modules[:] = [module for module in modules if module != "TimestepEmbedding"]
BOUND = 1e-5
RANK, ALPHA = 4, 7
COMPONENTS = ["unet", "transformer", "text_encoder", "text_encoder_2"]
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
LINEAR = ATTENTION + ["proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
CONVOLUTION = ["conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv"]
OUTER = ["conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"]
ADDED = ["add_embedding.linear_1", "add_embedding.linear_2"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


# The pipelines.

def text_encoder(kind, width):
    return kind(hf.CLIPTextConfig(vocab_size=16, hidden_size=width, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
                                  max_position_embeddings=16, projection_dim=10, bos_token_id=0, eos_token_id=1, pad_token_id=1))


def tokenizer():
    words = ["<|startoftext|>", "<|endoftext|>"] + [letter + end for letter in "abcdefg" for end in ("", "</w>")]
    return hf.CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=16)


def vae():
    return diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2)


def sd15():
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 12, 16, 16), norm_num_groups=4, layers_per_block=2, cross_attention_dim=12, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
    return diffusers.StableDiffusionPipeline(vae(), text_encoder(hf.CLIPTextModel, 12), tokenizer(), unet, diffusers.PNDMScheduler(), None, None,
                                             requires_safety_checker=False)


def sdxl():
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 12, 16), norm_num_groups=4, layers_per_block=2, cross_attention_dim=28, attention_head_dim=(2, 3, 4),
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
        transformer_layers_per_block=(1, 2, 3), use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=34)
    return diffusers.StableDiffusionXLPipeline(
        vae(), text_encoder(hf.CLIPTextModel, 12), text_encoder(hf.CLIPTextModelWithProjection, 16), tokenizer(), tokenizer(), unet,
        diffusers.EulerDiscreteScheduler())


def flux():
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
        pooled_projection_dim=12, axes_dims_rope=[4, 4, 8], guidance_embeds=True)
    t5 = hf.T5EncoderModel(hf.T5Config(vocab_size=16, d_model=24, d_kv=4, d_ff=20, num_layers=1, num_heads=2))
    return diffusers.FluxPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(), vae(), text_encoder(hf.CLIPTextModel, 12), tokenizer(), t5, tokenizer(), transformer)


def make_base(build, folder):
    torch.manual_seed(3)
    pipeline = build()
    pipeline.save_pretrained(folder, max_shard_size="400KB" if build is flux else "10GB")
    if build is sd15:  # under the names of the published models: Transformers 5 leaves "text_model." out
        path = folder / "text_encoder/model.safetensors"
        save_file({f"text_model.{name}": tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def components(pipeline):
    return {name: module for name in COMPONENTS if isinstance(module := getattr(pipeline, name, None), torch.nn.Module)}


def weights(pipeline):
    return {name: {key: value.detach().clone() for key, value in module.state_dict().items()} for name, module in components(pipeline).items()}


def fused(pipeline):
    """The weights of a pipeline with its loaded adapter fused by diffusers."""
    pipeline.fuse_lora(components=[name for name in components(pipeline) if name in pipeline._lora_loadable_modules])
    pipeline.unload_lora_weights()
    return weights(pipeline)


@torch.no_grad()
def randomise(module):
    """Gives every trained parameter values of the size that training gives them."""
    generator = torch.Generator().manual_seed(11)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad or not any(word in name for word in ("lora", "dora", "scalar")):
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if "magnitude" in name or "dora_scale" in name:
            parameter.mul_(1 + 0.1 * noise)
        elif "scalar" in name:
            parameter.copy_(1 + 0.5 * noise)
        else:
            parameter.copy_(0.1 * noise)


# Adapters that diffusers and PEFT make. Each maker gets the folder, which has a pipeline, and a function that loads the pipeline anew; it
# returns the base to merge into, the adapter's file and the reference: weights by component.

def trained(fields, base="base", alone=None, has_metadata=True, is_read_back=True):
    """Adapters of several components, saved by the pipeline; `alone`: by the one component. Without metadata: as diffusers saved before 0.34."""
    def make(folder, load):
        pipeline, path = load(), folder / "adapter/pytorch_lora_weights.safetensors"
        adapted = {name: getattr(pipeline, name) for name in fields}
        for name, module in adapted.items():
            module.add_adapter(LoraConfig(**{"r": RANK, "lora_alpha": ALPHA, **fields[name]}))
            randomise(module)
        if alone:
            adapted[alone].save_lora_adapter(path.parent)
        else:
            pipeline.save_lora_weights(
                path.parent, **{f"{name}_lora_layers": get_peft_model_state_dict(module) for name, module in adapted.items()},
                **(_collate_lora_metadata(adapted) if has_metadata else {}))
        reference = fused(pipeline)
        if is_read_back:
            torch.testing.assert_close(read(path, load, alone), reference, rtol=1e-5, atol=1e-6)
        return folder / base, path, reference
    return make


# The readers: the weights that a library makes of a file.

def read(path, load, alone=None):
    """`alone`: the component that wrote the file, whose names have no prefix."""
    pipeline = load()
    if alone:
        getattr(pipeline, alone).load_lora_adapter(path, prefix=None, use_safetensors=True)  # without it, the metadata is left out
    else:
        pipeline.load_lora_weights(path)
    return fused(pipeline)


def read_flux(path, load):
    """diffusers' reader knows only the width of the published model."""
    converter, width = lora_conversion_utils._convert_kohya_flux_lora_to_diffusers, load().transformer.inner_dim
    scope = dict(vars(lora_conversion_utils))
    exec(inspect.getsource(converter).replace("[3072, 3072, 3072, 12288]", str([width, width, width, 4 * width])), scope)
    with unittest.mock.patch.object(lora_pipeline, converter.__name__, scope[converter.__name__]):
        return read(path, load)


def read_lycoris(path, load):
    """sd-scripts' own networks take ranks and alphas in the same way."""
    pipeline = load()
    network, tensors = create_network_from_weights(1.0, str(path), None, None, pipeline.unet)
    network.merge_to(None, pipeline.unet, tensors, None, None)
    return weights(pipeline)


# Adapters under other names, written here and read by diffusers.

LDM_RESNET = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
LDM_OUTER = {"conv_in": "input_blocks.0.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
             "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}


def ldm_name(name, unet):
    """The name of a module in the U-Net of the original model (latent diffusion, sgm)."""
    if name in LDM_OUTER:
        return LDM_OUTER[name]
    side, *place = name.split(".")
    block, kind, index, *tail = [0, *place] if side == "mid_block" else place
    block, index, layers, inner = int(block), int(index), unet.config.layers_per_block + 1, int(kind == "attentions")
    if kind == "resnets":
        tail = [LDM_RESNET[tail[0]]]
    if kind == "downsamplers":
        return f"input_blocks.{layers * (block + 1)}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{layers * (block + 1) - 1}.{2 if hasattr(unet.up_blocks[block], 'attentions') else 1}.conv"
    number = layers * block + index
    place = {"mid_block": f"middle_block.{inner or 2 * index}", "down_blocks": f"input_blocks.{1 + number}.{inner}",
             "up_blocks": f"output_blocks.{number}.{inner}"}[side]
    return ".".join([place, *tail])


# The keys of down, up and alpha of a module.

def kohya(component, name, pipeline):
    first = "lora_te_" if isinstance(pipeline, diffusers.StableDiffusionPipeline) else "lora_te1_"
    key = {"unet": "lora_unet_", "text_encoder": first, "text_encoder_2": "lora_te2_"}[component] + name.replace(".", "_")
    return f"{key}.lora_down.weight", f"{key}.lora_up.weight", f"{key}.alpha"


def kohya_ldm(component, name, pipeline):
    return kohya(component, ldm_name(name, pipeline.unet) if component == "unet" else name, pipeline)


def processor(component, name, pipeline):
    """The names of diffusers 0.12 to 0.17."""
    path, last = re.match(r"(.*\.)(?:to_)?(q|k|v|out)(?:_proj|\.0|)$", name).groups()
    key = f"{component}.{path}{'processor.' if component == 'unet' else ''}to_{last}_lora"
    return f"{key}.down.weight", f"{key}.up.weight", None


def processor_alone(component, name, pipeline):
    return [key and key.removeprefix("unet.") for key in processor(component, name, pipeline)]


def up_down(component, name, pipeline):
    """The names of diffusers 0.18 to 0.24."""
    key = f"{component}.{name}.{'lora' if component == 'unet' else 'lora_linear_layer'}"
    return f"{key}.down.weight", f"{key}.up.weight", None


def peft(component, name, pipeline):
    return f"{component}.{name}.lora_A.weight", f"{component}.{name}.lora_B.weight", f"{component}.{name}.alpha"


def factors(module, rank, generator):
    kernel = module.kernel_size if isinstance(module, torch.nn.Conv2d) else ()
    outputs, inputs = module.weight.shape[:2]
    return (0.1 * torch.randn(rank, inputs, *kernel, generator=generator),
            0.1 * torch.randn(outputs, rank, *[1] * len(kernel), generator=generator))


def write(path, pipeline, naming, targets, rank=lambda name: RANK, alpha=lambda name: ALPHA):
    """Writes an adapter of random factors for the modules that end in a target."""
    generator, tensors = torch.Generator().manual_seed(17), {}
    for component, endings in targets.items():
        root = getattr(pipeline, component)
        for name, module in root.named_modules():
            if not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) or not name.endswith(tuple(endings)):
                continue
            down, up, scale = naming(component, f"text_model.{name}" if type(root) is hf.CLIPTextModel else name, pipeline)
            tensors[down], tensors[up] = factors(module, rank(name), generator)
            if scale and alpha(name) is not None:
                tensors[scale] = torch.tensor(float(alpha(name)))
    save_file(tensors, path)


def written(naming, targets, reader=read, twin=None, base="base", **shape):
    """`twin`: other names, under which the same factors are read for the reference."""
    def make(folder, load):
        path, other = folder / "adapter.safetensors", folder / "twin.safetensors"
        write(path, load(), naming, targets, **shape)
        write(other, load(), twin or naming, targets, **shape)
        return folder / base, path, reader(other, load)
    return make


FLUX_DOUBLE = {"img_mod.lin": ["norm1.linear"], "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"], "img_attn.proj": ["attn.to_out.0"],
               "img_mlp.0": ["ff.net.0.proj"], "img_mlp.2": ["ff.net.2"], "txt_mod.lin": ["norm1_context.linear"],
               "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"], "txt_attn.proj": ["attn.to_add_out"],
               "txt_mlp.0": ["ff_context.net.0.proj"], "txt_mlp.2": ["ff_context.net.2"]}
FLUX_SINGLE = {"modulation.lin": ["norm.linear"], "linear1": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"], "linear2": ["proj_out"]}


def flux_original(is_split=False, has_alpha=True, is_comfy=False):
    """Names of the original model, which has the projections of q, k and v (and the MLP) in one. `is_split`: each with its own factors, put
    together with zeros, as sd-scripts saves with split_qkv. `is_comfy`: the dots stay, as ComfyUI and its trainers write them."""
    def make(folder, load):
        pipeline, path, generator, tensors = load(), folder / "adapter.safetensors", torch.Generator().manual_seed(19), {}

        def add(key, modules, alpha):
            pairs = [factors(module, RANK, generator) for module in modules]
            tensors[f"{key}.lora_down.weight"] = torch.cat([pair[0] for pair in pairs]) if is_split else pairs[0][0]
            tensors[f"{key}.lora_up.weight"] = (torch.block_diag if is_split else lambda *parts: torch.cat(parts))(*[pair[1] for pair in pairs])
            if has_alpha:
                tensors[f"{key}.alpha"] = torch.tensor(float(alpha))

        for kind, table in (("double", FLUX_DOUBLE), ("single", FLUX_SINGLE)):
            for index, block in enumerate(getattr(pipeline.transformer, "transformer_blocks" if kind == "double" else "single_transformer_blocks")):
                for name, parts in table.items():
                    name = f"{kind}_blocks.{index}.{name}"
                    key = f"diffusion_model.{name}" if is_comfy else "lora_unet_" + name.replace(".", "_")
                    add(key, [block.get_submodule(part) for part in parts], ALPHA + index)
        for name, module in pipeline.text_encoder.named_modules():
            if name.endswith(tuple(TEXT)) and not is_comfy:
                add("lora_te1_text_model_" + name.replace(".", "_"), [module], ALPHA)
        save_file(tensors, path)
        return folder / "base", path, read_flux(path, load)
    return make


# Adapters that LyCORIS makes and merges.

def lycoris(dtype=None, alpha=ALPHA, is_applied=False, **options):
    """`is_applied`: the weights are those of the applied network; what LyCORIS merges has alpha / rank twice in a LoHa or LoKr."""
    def make(folder, load):
        pipeline, path, metadata = load(), folder / "adapter.safetensors", {"ss_network_module": "lycoris.kohya"}
        encoders = [module for name, module in components(pipeline).items() if name.startswith("text")]
        encoders = encoders if len(encoders) > 1 else encoders[0]  # a list has numbered names
        network = create_network(1.0, RANK, alpha, None, encoders, pipeline.unet, warn_on_unmatched=False, **options)
        network.apply_to(encoders, pipeline.unet, True, True)
        randomise(network)
        network.save_weights(path, dtype, dict(metadata))
        network.load_weights(path)  # what the file holds, rounded if its type is
        network.restore()
        tensors = load_file(path)
        if is_applied:
            for module in network.loras:
                weight = module.org_module[0].weight.data
                merged = weight + module.get_weight(module.shape) * module.scalar  # as its forward pass has it
                weight.copy_(module.apply_weight_decompose(merged, 1) if module.wd else merged)
        else:
            network.merge_to(encoders, pipeline.unet, tensors, None, None)
        # The names on a text encoder before Transformers 5.
        save_file({re.sub("^(lora_te1?_)encoder_", r"\1text_model_encoder_", key): tensor for key, tensor in tensors.items()}, path, metadata)
        return folder / "base", path, weights(pipeline)
    return make


UNET = LINEAR + CONVOLUTION + OUTER
PATTERNS = dict(rank_pattern={"to_k": 2, "mid_block.attentions.0.proj_in": 6}, alpha_pattern={"to_v": 3, "conv1": 5})
KOHYA = {"unet": LINEAR + CONVOLUTION, "text_encoder": TEXT}
KOHYA_XL = {**KOHYA, "text_encoder_2": TEXT}
FLUX = ["attn.to_q", "attn.to_out.0", "attn.add_k_proj", "proj_mlp", "proj_out", "norm1.linear", "ff.net.0.proj", "x_embedder", "context_embedder"]


def on(modules, **fields):
    return dict(target_modules=modules, **fields)


# Pipeline, name, maker.
CASES = [
    (sd15, "diffusers: attention", trained({"unet": on(ATTENTION)})),
    (sd15, "diffusers: linear layers, convolutions", trained({"unet": on(UNET)})),
    (sd15, "diffusers: U-Net and text encoder", trained({"unet": on(UNET), "text_encoder": on(TEXT, r=2)})),
    (sd15, "diffusers: text encoder", trained({"text_encoder": on(TEXT)})),
    (sd15, "diffusers: rsLoRA", trained({"unet": on(UNET, use_rslora=True)})),
    (sd15, "diffusers: rank and alpha patterns", trained({"unet": on(UNET, **PATTERNS)})),
    (sd15, "diffusers: DoRA", trained({"unet": on(UNET, use_dora=True)})),
    # diffusers 0.42 with Transformers 5.23 leaves out the magnitudes when it reads this, without a word.
    (sd15, "diffusers: DoRA of the text encoder", trained({"text_encoder": on(TEXT, use_dora=True)}, is_read_back=False)),
    (sd15, "diffusers: lora_bias", trained({"unet": on(["to_out.0", "ff.net.2", "time_emb_proj"], lora_bias=True)})),
    (sd15, "diffusers: no metadata", trained(
        {"unet": on(UNET, lora_alpha=RANK, rank_pattern={"to_k": 2}, alpha_pattern={"to_k": 2})}, has_metadata=False)),
    (sd15, "diffusers: into the U-Net's folder", trained({"unet": on(UNET)}, base="base/unet")),
    (sd15, "diffusers: saved by the U-Net", trained({"unet": on(UNET, **PATTERNS)}, base="base/unet", alone="unet")),
    (sdxl, "diffusers: U-Net", trained({"unet": on(UNET + ADDED)})),
    (sdxl, "diffusers: U-Net and text encoders", trained({"unet": on(UNET), "text_encoder": on(TEXT, r=2), "text_encoder_2": on(TEXT, r=3)})),
    (flux, "diffusers: transformer", trained({"transformer": on(FLUX)})),
    (flux, "diffusers: transformer and text encoder", trained({"transformer": on(FLUX, use_dora=True), "text_encoder": on(TEXT)})),
    (flux, "diffusers: saved by the transformer", trained(
        {"transformer": on(FLUX, use_rslora=True)}, base="base/transformer", alone="transformer")),
    (flux, "diffusers: alphas beside PEFT's names", written(peft, {"transformer": FLUX[:7]}, alpha=lambda name: 3 if "proj" in name else 7)),
    (sd15, "diffusers 0.17: processors", written(processor, {"unet": ATTENTION, "text_encoder": TEXT[:4]})),
    (sd15, "diffusers 0.17: processors, without unet.", written(
        processor_alone, {"unet": ATTENTION}, lambda path, load: read(path, load, "unet"), base="base/unet")),
    (sd15, "diffusers 0.24: up and down", written(up_down, {"unet": LINEAR, "text_encoder": TEXT})),
    (sdxl, "diffusers 0.24: up and down", written(up_down, {**KOHYA_XL, "unet": LINEAR})),
    (sd15, "kohya: diffusers' names", written(kohya, KOHYA)),
    (sd15, "kohya: alpha absent", written(kohya, KOHYA, rank=lambda name: 2 + len(name) % 4, alpha=lambda name: None)),
    # diffusers gives most modules the alpha that most have.
    (sd15, "kohya: each module's own rank and alpha", written(
        kohya, {"unet": UNET}, read_lycoris, rank=lambda name: 2 + len(name) % 4, alpha=lambda name: 1 + len(name) % 5)),
    # diffusers takes neither original names with two-digit blocks nor the upsampler of a block without attention.
    (sd15, "kohya: original names", written(kohya_ldm, {"unet": UNET}, twin=kohya)),
    (sdxl, "kohya: original names", written(kohya_ldm, {**KOHYA_XL, "unet": UNET + ADDED})),
    (sdxl, "kohya: diffusers' names", written(kohya, KOHYA_XL)),
    (sdxl, "kohya: original names, into the U-Net's folder", written(kohya_ldm, {"unet": UNET}, base="base/unet")),
    (flux, "kohya: qkv in one", flux_original()),
    (flux, "kohya: qkv in one, split", flux_original(is_split=True)),
    (flux, "kohya: qkv in one, alpha absent", flux_original(has_alpha=False)),
    (flux, "ComfyUI: qkv in one", flux_original(is_comfy=True)),
    (sd15, "LyCORIS: LoCon", lycoris(conv_dim=2, conv_alpha=1)),
    (sd15, "LyCORIS: LoCon in F16", lycoris(torch.float16, conv_dim=2, conv_alpha=1)),
    (sdxl, "LyCORIS: LoCon", lycoris(conv_dim=2, conv_alpha=1)),
    (sd15, "LyCORIS: linear layers", lycoris(preset="full-lin")),
    (sd15, "LyCORIS: Tucker", lycoris(conv_dim=3, conv_alpha=2, use_tucker=True)),
    (sd15, "LyCORIS: DoRA by output", lycoris(dora_wd=True, wd_on_output=True)),
    (sd15, "LyCORIS: DoRA by input", lycoris(dora_wd=True, wd_on_output=False)),
    (sd15, "LyCORIS: DoRA by output, Tucker", lycoris(dora_wd=True, wd_on_output=True, use_tucker=True)),
    (sd15, "LyCORIS: DoRA by input, Tucker", lycoris(dora_wd=True, wd_on_output=False, use_tucker=True)),
    (sd15, "LyCORIS: rsLoRA", lycoris(rs_lora=True)),
    (sd15, "LyCORIS: scalar", lycoris(use_scalar=True)),
    (sd15, "LyCORIS: LoHa", lycoris(algo="loha", is_applied=True)),
    (sd15, "LyCORIS: LoHa, Tucker", lycoris(algo="loha", is_applied=True, use_tucker=True, conv_dim=3, conv_alpha=2)),
    (sd15, "LyCORIS: LoHa, DoRA by output", lycoris(algo="loha", is_applied=True, dora_wd=True, wd_on_output=True)),
    (sd15, "LyCORIS: LoHa, DoRA by input", lycoris(algo="loha", is_applied=True, dora_wd=True, wd_on_output=False)),
    (sd15, "LyCORIS: LoHa in F16", lycoris(torch.float16, algo="loha", is_applied=True)),
    (sd15, "LyCORIS: LoKr", lycoris(algo="lokr", is_applied=True)),
    (sd15, "LyCORIS: LoKr of factor 4", lycoris(algo="lokr", is_applied=True, factor=4)),
    (sd15, "LyCORIS: LoKr, both decomposed", lycoris(algo="lokr", is_applied=True, decompose_both=True, factor=4)),
    (sd15, "LyCORIS: LoKr, both whole", lycoris(algo="lokr", is_applied=True, full_matrix=True)),
    (sd15, "LyCORIS: LoKr, DoRA by output", lycoris(algo="lokr", is_applied=True, dora_wd=True, wd_on_output=True)),
    (sdxl, "LyCORIS: LoKr", lycoris(algo="lokr", is_applied=True, factor=8)),
    (sd15, "LyCORIS: alpha of 0", lycoris(alpha=0, conv_alpha=0)),
]


def compare(base, merged, kind, expected):
    """Returns the largest relative error in a component, how many of its tensors the reference changes, and what is wrong."""
    before, after = ({name: (tensor.shape, tensor.dtype) for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
                     for folder in (base, merged))
    if before != after:
        return 0.0, 0, [f"{base.name}: other tensors"]
    untouched, found = (kind.from_pretrained(folder).state_dict() for folder in (base, merged))
    error, changed, wrong = 0.0, 0, []
    for key, tensor in expected.items():
        is_kept = torch.equal(tensor, untouched[key])
        off = ((found[key].double() - tensor.double()).abs().max() / tensor.double().abs().max().clamp_min(1e-30)).item()
        error, changed = max(error, off), changed + (not is_kept)
        if not off <= (0 if is_kept else BOUND):
            wrong.append(f"{base.name}: {key} off by {off:.1e}")
    return error, changed, wrong


def copied(base, merged, folders):
    """Says which files beside the weights of the folders are not the base's."""
    others = [path for path in sorted(base.rglob("*")) if path.is_file() and not (
        path.parent in folders and path.name.endswith((".safetensors", ".safetensors.index.json")))]
    return [f"{path.name} is not the base's" for path in others
            if not (copy := merged / path.relative_to(base)).is_file() or copy.read_bytes() != path.read_bytes()]


def check(oplora, build, maker, folder):
    """Returns what to say of the case and what is wrong. Without a program nothing is merged: the reference must differ from the base."""
    make_base(build, folder / "base")
    kind, kinds = type(build()), {name: type(module) for name, module in components(build()).items()}
    base, adapter, expected = maker(folder, lambda: kind.from_pretrained(folder / "base"))
    keys, merged = load_file(adapter), folder / "merged" if oplora else base
    if oplora:
        run = subprocess.run([oplora, "merge", "--base", base, "--adapter", adapter, "--out", merged, "--no-fsync", "--quiet"],
                             capture_output=True, text=True)
        if run.returncode:
            return "", f"merge: {run.stderr.strip()}"
    folders = {base.name: base} if base.name in kinds else {name: base / name for name in expected}
    wrong = copied(base, merged, set(folders.values()))
    errors, changed, wrongs = zip(*(compare(path, merged / path.relative_to(base), kinds[name], expected[name]) for name, path in folders.items()))
    wrong += sum(wrongs, []) if oplora else []
    modules = sum(key.endswith((".lora_A.weight", "down.weight")) for key in keys)
    if sum(changed) < modules:
        wrong.append(f"{modules} modules change only {sum(changed)} tensors")
    if not wrong and base == folder / "base":
        kind.from_pretrained(merged)
        if oplora:
            wrong += converted(oplora, base, adapter, expected, lambda: kind.from_pretrained(folder / "base"), folder)
    return f"{max(errors):.1e}, {sum(changed)} tensors" if oplora else f"{len(keys)} tensors change {sum(changed)}", "; ".join(wrong[:3])


def converted(oplora, base, adapter, expected, load, folder):
    """What is wrong with the files that `oplora convert` makes of the adapter."""
    if any("hada_" in key or "lokr_" in key for key in load_file(adapter)):
        run = subprocess.run([oplora, "convert", adapter, "--to", "diffusers", "--base", base, "--out", folder / "converted"],
                             capture_output=True, text=True)
        return [] if run.returncode and "resize makes a LoRA of it" in run.stderr else ["convert takes what it has no factors for"]
    readers = {"diffusers": read} | ({"kohya": read_lycoris} if expected.keys() == {"unet"} else {})
    wrong = []
    if any("text_encoder" in key or "lora_te" in key for key in load_file(adapter) if "magnitude" in key or "dora_scale" in key):
        del readers["diffusers"]  # which does not load them
    for layout, reader in readers.items():
        out = folder / ("converted.safetensors" if layout == "kohya" else "converted")
        run = subprocess.run([oplora, "convert", adapter, "--to", layout, "--base", base, "--out", out, "--quiet"], capture_output=True, text=True)
        if run.returncode == 65 and re.search("norms of inputs|no form for a bias on B", run.stderr):
            continue
        if run.returncode:
            wrong.append(f"convert to {layout}: {run.stderr.strip()}")
            continue
        found = reader(out if layout == "kohya" else out / "pytorch_lora_weights.safetensors", load)
        for name, tensors in expected.items():
            error = max(((found[name][key].double() - value.double()).abs().max() / value.double().abs().max().clamp_min(1e-30)).item()
                        for key, value in tensors.items() if value.is_floating_point())
            if error > BOUND:
                wrong.append(f"what was converted to {layout} gives {name} {error:.1e} off")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    program = parser.add_mutually_exclusive_group(required=True)
    program.add_argument("--oplora")
    program.add_argument("--generate-only", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", type=pathlib.Path)
    options = parser.parse_args()
    failed = 0
    for build, title, maker in CASES:
        title = f"{build.__name__}, {title}"
        if options.only.lower() not in title.lower():
            continue
        folder = pathlib.Path(tempfile.mkdtemp(dir=options.keep))
        text, wrong = check(options.oplora, build, maker, folder)
        failed += bool(wrong)
        print(f"{'FAIL' if wrong else 'ok  '}  {title}: {wrong or text}", flush=True)
        if not options.keep:
            shutil.rmtree(folder)
        elif wrong:
            print(f"      {folder}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
