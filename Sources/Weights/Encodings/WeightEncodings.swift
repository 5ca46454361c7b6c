internal import Tensors

/// The table of encodings: the first that fits the tensors of a module is meant.
///
/// Sources: bitsandbytes 0.50, transformers 5.24, compressed-tensors 0.20, gptqmodel 7.7, AutoAWQ 0.2.9, mlx 0.32,
/// nvidia-modelopt 0.47, torchao 0.18, ComfyUI of October 2025.
extension WeightEncoding {
    static let all: [WeightEncoding] = [
        // With another storage type the codes are BF16, F16 or F32 of one column.
        WeightEncoding(
            "bitsandbytes NF4", codes: ".weight", types: anyType, scales: [".weight.quant_state.bitsandbytes__nf4"],
            others: nested, remedy: original + bitsandbytes),
        WeightEncoding(
            "bitsandbytes FP4", codes: ".weight", types: anyType, scales: [".weight.quant_state.bitsandbytes__fp4"],
            others: nested, remedy: original + bitsandbytes),
        WeightEncoding(
            "bitsandbytes int8", codes: ".weight", types: bytes, scales: [".SCB"], others: [".weight_format"],
            remedy: original + bitsandbytes),
        WeightEncoding(
            "GPTQ", codes: ".qweight", types: words, scales: [".scales", ".g_idx"], others: [".qzeros"]),
        WeightEncoding(
            "GPTQ", codes: ".qweight", types: words, scales: [".scales"], others: [".qzeros"], method: "gptq"),
        WeightEncoding(
            "AWQ", codes: ".qweight", types: words, scales: [".scales", ".qzeros"]),
        WeightEncoding(
            "compressed-tensors NVFP4", codes: ".weight_packed", types: bytes, scales: [".weight_scale", ".weight_global_scale"],
            others: [".input_global_scale"]),
        WeightEncoding(
            "compressed-tensors MXFP4", codes: ".weight_packed", types: bytes, scales: [".weight_scale"]),
        WeightEncoding(
            "compressed-tensors integers", codes: ".weight_packed", types: words, scales: [".weight_scale"],
            others: [".weight_shape", ".weight_zero_point", ".weight_g_idx"]),
        WeightEncoding(
            "ModelOpt NVFP4", codes: ".weight", types: bytes, scales: [".weight_scale", ".weight_scale_2"], others: [".input_scale"]),
        WeightEncoding(
            "compressed-tensors int8", codes: ".weight", types: [.i8], scales: [".weight_scale"], others: [".weight_zero_point"]),
        BlockFP8.encoding, BlockFP8.stackEncoding,
        WeightEncoding(
            "FP8 in blocks", codes: ".weight", types: eightBits.union(bytes), scales: [".weight_scale_inv"], remedy: transformers),
        WeightEncoding(
            "FP8 in blocks", codes: "", types: eightBits, scales: ["_scale_inv"], remedy: transformers),
        WeightEncoding(
            "ComfyUI FP8 with scales", codes: ".weight", types: eightBits, scales: [".weight_scale", ".comfy_quant"], others: [".input_scale"],
            remedy: "name the model's file in BF16 or F16"),
        WeightEncoding(
            "ComfyUI FP8 with scales", codes: ".weight", types: eightBits, scales: [".scale_weight"], others: [".scale_input"],
            remedy: "name the model's file in BF16 or F16"),
        WeightEncoding(
            "MXFP8", codes: ".weight", types: eightBits, scaleTypes: exponents, scales: [".weight_scale"], others: [".input_scale"]),
        WeightEncoding(
            "FP8 with scales", codes: ".weight", types: eightBits, scales: [".weight_scale"], others: [".input_scale"]),
        WeightEncoding(
            "FP8 with scales", codes: ".weight", types: eightBits.union(bytes), scales: [".scale"]),
        WeightEncoding(
            "FP8 with scales", codes: ".weight", types: eightBits, scales: [".qscale_weight"], others: [".qscale_act"]),
        WeightEncoding(
            "MLX MXFP4 or MXFP8", codes: ".weight", types: words, scaleTypes: bytes, scales: [".scales"],
            remedy: mlx),
        WeightEncoding(
            "MLX affine", codes: ".weight", types: words, scales: [".scales", ".biases"],
            remedy: mlx),
        WeightEncoding(
            "torchao", codes: "._weight_qdata", types: codeTypes, scales: ["._weight_scale"], others: ["._weight_zero_point"]),
        WeightEncoding(
            "MXFP4", codes: "_blocks", types: bytes, scales: ["_scales"], remedy: transformers),
        WeightEncoding(
            "a plain cast to FP8, without scales", codes: ".weight", types: eightBits, scales: [], remedy: "name the model in BF16 or F16"),
    ]

    /// A weight whose scales are not understood is no plain weight, whatever its type.
    static let unknown = WeightEncoding("a format that this program does not know", codes: ".weight", types: codeTypes, scales: [])

    private static let nested = [
        ".weight.absmax", ".weight.quant_map", ".weight.nested_absmax", ".weight.nested_quant_map",
    ]
    private static let bitsandbytes = ", or what dequantize() of transformers makes of this one"
}
