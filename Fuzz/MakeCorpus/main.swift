// Writes the seeds of the fuzz targets: small files of each format that between them use what the format has.
//
//     swift run MakeCorpus Fuzz/Corpus
//
// The same program writes the same bytes. Inputs that once showed a fault lie beside them in the folders named after the
// targets, begin with "fault-", and are left alone.

import CKernels
import FileIO
import GGUF
import JSON
import NativeCheckpoint
import OrderedCollections
import Safetensors
import Tensors
import TestSupport

guard CommandLine.arguments.count == 2 else { fatalError("usage: MakeCorpus FOLDER") }
let corpus = CommandLine.arguments[1]

func write(_ bytes: [UInt8], _ target: String, _ name: String) throws {
    let file = try AtomicFile(path: "\(corpus)/\(target)/\(name)", replacing: true)
    try file.write(bytes)
    try file.publish(durable: false)
}

func write(_ text: String, _ target: String, _ name: String) throws { try write(Array(text.utf8), target, name) }

for target in ["json", "safetensors", "shard-index", "tokenizer", "adapter-config", "adapter", "checkpoint", "huffman"] {
    if !FileSystem.exists("\(corpus)/\(target)") { try FileSystem.createFolder("\(corpus)/\(target)") }
}

// MARK: json

let json = [
    "scalars": #"[null, true, false, 0, -1, 9223372036854775807, -9223372036854775808, 0.5, -1.25e-3, 1E+20, "", "text"]"#,
    "strings": #"{"\u00e9": "é", "\ud83d\ude00": "😀", "escapes": "\"\\\/\b\f\n\r\t\u001f\u0000"}"#,
    "nested": String(repeating: "[", count: 60) + String(repeating: "]", count: 60),
]
for (name, text) in json { try write(text, "json", name) }

// MARK: safetensors

func safetensors(_ header: String, data: Int) -> [UInt8] {
    let text = Array(header.utf8)
    return (0..<8).map { UInt8(truncatingIfNeeded: text.count >> (8 * $0)) } + text + [UInt8](repeating: 0x3F, count: data)
}

let everyType = DType.allCases.map { SafetensorsWriter.Entry(name: "tensor.\($0)", dtype: $0, shape: [2, 4]) }
let writer = try SafetensorsWriter(path: corpus + "/safetensors/every-type", entries: everyType, metadata: ["format": "pt"], replacing: true)
for tensor in writer.order {
    let bytes = [UInt8](repeating: 1, count: tensor.byteCount)
    // Sound: every bit pattern of a byte may be read as a raw byte.
    try writer.write(unsafe bytes.span.bytes)
}
try writer.publish(durable: false)
let headers: [(name: String, text: String, data: Int)] = [
    ("empty", "{}", 0), ("spaces", "{ } \t\n", 0), ("empty-tensors", #"{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#, 0),
    ("metadata", #"{"__metadata__":{"config":"{\"r\": 8}"},"é":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}"#, 1),
    ("null-metadata", #"{"__metadata__":null,"a":["U8",[1],[0,1]]}"#, 1),
    ("other-spellings", #"{"a":{"shape":[2],"data_offsets":[1,3],"dtype":{"U8":null},"more":{}},"b":["I8",[1],[0,1]],"b":["I8",[1],[0,1]]}"#, 3),
    (
        "two-orders",
        #"{"b":{"dtype":"U16","shape":[1,1],"data_offsets":[2,4]},"\u0061":{"dtype":"I16","shape":[1],"data_offsets":[0,2]}}"#, 4
    ),
]
for header in headers { try write(safetensors(header.text, data: header.data), "safetensors", header.name) }

// MARK: shard-index

let map = #""weight_map":{"x":"a.safetensors","y":"a.safetensors","z":"b.safetensors"}"#
for (name, text) in [
    "plain": #"{"metadata":{"total_size":0},\#(map)}"#, "no-metadata": "{\(map)}", "other-size": #"{"metadata":{"total_size":1e3},\#(map)}"#,
    "other-shard": #"{"weight_map":{"x":"../a.safetensors","y":"b.safetensors"}}"#,
] { try write(text, "shard-index", name) }

// MARK: tokenizer

/// The fixture's tokenizer with the bytes and the first merges alone.
func smallTokenizer(preTokenizer: JSONValue?, merges count: Int) throws -> JSONValue {
    guard var root = try JSONValue(parsing: FileSystem.contents(of: Repository.tinyLlama + "/tokenizer.json", limit: 1 << 24)).objectValue,
        var model = root["model"]?.objectValue, let merges = model["merges"]?.arrayValue, let vocabulary = model["vocab"]?.objectValue
    else { fatalError("the fixture has no BPE model") }
    let kept = Array(merges.prefix(count))
    let made = kept.map { $0.arrayValue?.compactMap(\.stringValue).joined() ?? ($0.stringValue ?? "").split(separator: " ").joined() }
    var small: OrderedDictionary<String, JSONValue> = [:]
    for token in vocabulary.keys where token.unicodeScalars.count == 1 || made.contains(token) { small[token] = .integer(small.count) }
    model["vocab"] = .object(small)
    model["merges"] = .array(kept)
    root["model"] = .object(model)
    root["added_tokens"] = []
    if let preTokenizer { root["pre_tokenizer"] = preTokenizer }
    return .object(root)
}

let wholeText: JSONValue = ["type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false]
let llama3 =
    #"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#
let split: JSONValue = ["type": "Split", "pattern": ["Regex": .string(llama3)], "behavior": "Isolated", "invert": false]
let plain = try smallTokenizer(preTokenizer: nil, merges: 20)
try write(plain.serialized() + "\0some text, 12 words", "tokenizer", "fixture")
try write(smallTokenizer(preTokenizer: wholeText, merges: 40).serialized(), "tokenizer", "whole-text")
try write(
    smallTokenizer(preTokenizer: ["type": "Sequence", "pretokenizers": [split, wholeText]], merges: 10).serialized(), "tokenizer", "llama3")
if var root = plain.objectValue {
    let size = root["model"]?["vocab"]?.objectValue?.count ?? 0
    root["added_tokens"] = [
        [
            "id": .integer(size), "content": "<|endoftext|>", "single_word": false, "lstrip": true, "rstrip": true, "normalized": false,
            "special": true,
        ]
    ]
    try write(JSONValue.object(root).serialized() + "\0a <|endoftext|> b", "tokenizer", "added-token")
}

// MARK: adapter-config

let configurations = [
    "plain": #"{"peft_type":"LORA","r":8,"lora_alpha":16,"target_modules":["q_proj","v_proj"],"bias":"none","use_rslora":false}"#,
    "patterns":
        #"{"peft_type":"LORA","r":4,"lora_alpha":8.5,"use_rslora":true,"rank_pattern":{"^model\\.layers\\.0\\..*q_proj":2,"up_proj":3},"alpha_pattern":{"(q|k)_proj":1}}"#,
    "everything":
        #"{"alpha_pattern":{},"auto_mapping":null,"base_model_name_or_path":"base","bias":"none","corda_config":null,"eva_config":null,"exclude_modules":null,"fan_in_fan_out":false,"inference_mode":true,"init_lora_weights":true,"layer_replication":null,"layers_pattern":null,"layers_to_transform":null,"loftq_config":{},"lora_alpha":16,"lora_bias":false,"lora_dropout":0.0,"modules_to_save":null,"peft_type":"LORA","r":8,"rank_pattern":{"q_proj":1},"revision":null,"target_modules":"all-linear","task_type":"CAUSAL_LM","trainable_token_indices":null,"use_dora":false,"use_rslora":true}"#,
]
for (name, text) in configurations { try write(text, "adapter-config", name) }

// MARK: adapter

/// A dialect, a configuration, and lines of tensors.
func adapter(_ name: String, dialect: Int, _ configuration: String, _ tensors: [String]) throws {
    try write([UInt8(dialect)] + Array(configuration.utf8) + [0] + Array(tensors.joined(separator: "\n").utf8), "adapter", name)
}

let peft = #"{"peft_type":"LORA","r":2,"lora_alpha":4"#
let key = "base_model.model."
try adapter(
    "linear", dialect: 0, peft + "}",
    [
        key + "l.0.q_proj.lora_A.weight F32 2 4", key + "l.0.q_proj.lora_B.weight BF16 4 2", key + "l.0.conv.lora_A.weight F32 2 4 2 2",
        key + "l.0.conv.lora_B.weight F32 3 2 1 1",
    ])
try adapter(
    "dora-bias", dialect: 0, peft + #","use_dora":true,"lora_bias":true,"bias":"all","use_rslora":true}"#,
    [
        key + "l.0.q_proj.lora_A.weight F32 2 4", key + "l.0.q_proj.lora_B.weight F32 4 2", key + "l.0.q_proj.lora_magnitude_vector F32 4",
        key + "l.0.q_proj.lora_B.bias F32 4",
    ])
try adapter(
    "embedding-tokens", dialect: 0, peft + #","modules_to_save":["norm","score"],"trainable_token_indices":{"lm_head":[1,7]}}"#,
    [
        key + "model.embed_tokens.lora_embedding_A F16 2 8", key + "model.embed_tokens.lora_embedding_B F16 4 2", key + "l.0.norm.weight F32 4",
        key + "score.weight F32 3 4",
    ])
try adapter(
    "tokens", dialect: 0, peft + #","trainable_token_indices":[5,0]}"#, [key + "model.embed_tokens.token_adapter.trainable_tokens_delta F32 2 4"])
try adapter(
    "experts", dialect: 0, peft + #","target_parameters":["mlp.experts.gate_up_proj","mlp.experts.down_proj"],"rank_pattern":{"down_proj":1}}"#,
    [
        key + "l.0.mlp.experts.base_layer.lora_A.weight F32 4 4", key + "l.0.mlp.experts.base_layer.lora_B.weight F32 6 4",
        key + "l.0.mlp.experts.lora_A.weight F32 2 3", key + "l.0.mlp.experts.lora_B.weight F32 4 2",
    ])
try adapter("grown", dialect: 0, peft + "}", [key + "model.embed_tokens.weight BF16 9 4", key + "lm_head.weight BF16 9 4"])
let mlx = #"{"fine_tune_type":"lora","lora_parameters":{"scale":2.0}}"#
try adapter(
    "mlx", dialect: 1, mlx, ["l.0.q_proj.lora_a F32 4 2", "l.0.q_proj.lora_b F32 2 4", "lm_head.lora_a BF16 4 1", "lm_head.lora_b BF16 1 8"])
try adapter("mlx-experts", dialect: 1, mlx, ["l.0.mlp.switch_mlp.down_proj.lora_a F32 2 1 3", "l.0.mlp.switch_mlp.down_proj.lora_b F32 2 4 1"])
let llama = #"{"format":"op-lora","version":"1","alpha":"2"}"#
try adapter(
    "kohya", dialect: 2, "{}",
    [
        "lora_unet_l_0_q_proj.lora_down.weight F32 2 4", "lora_unet_l_0_q_proj.lora_up.weight F32 4 2", "lora_unet_l_0_q_proj.alpha F32",
        "lora_unet_l_0_conv.lora_down.weight F32 1 4 1 1", "lora_unet_l_0_conv.lora_mid.weight F32 1 1 2 2",
        "lora_unet_l_0_conv.lora_up.weight F32 3 1 1 1", "lora_unet_l_0_conv.dora_scale F32 1 4 1 1",
    ])
try adapter(
    "diffusers", dialect: 2, #"{"lora_adapter_metadata":"{\"unet.peft_type\":\"LORA\",\"unet.r\":1,\"unet.lora_alpha\":3}"}"#,
    ["unet.l.0.q_proj.lora_A.weight F16 1 4", "unet.l.0.q_proj.lora_B.weight F16 4 1"])
try adapter(
    "diffusers-old", dialect: 2, "{}",
    [
        "unet.l.0.processor.to_q_lora.down.weight F32 1 4", "unet.l.0.processor.to_q_lora.up.weight F32 4 1",
        "text_encoder.l.0.q_proj.lora_linear_layer.down.weight F32 1 4", "text_encoder.l.0.q_proj.lora_linear_layer.up.weight F32 4 1",
        "text_encoder.l.0.q_proj.alpha F32",
    ])
try adapter(
    "op-lora", dialect: 2, llama,
    [
        "l.0.q_proj.op_lora.z F32 2", "l.0.q_proj.op_lora.trunk.weight F32 3 2", "l.0.q_proj.op_lora.trunk.bias F32 3",
        "l.0.q_proj.op_lora.a.weight F32 1 4 3", "l.0.q_proj.op_lora.a.bias F32 1 4", "l.0.q_proj.op_lora.b.weight F32 4 1 3",
        "l.0.q_proj.op_lora.b.bias F32 4 1", "l.0.q_proj.op_lora.m.weight F32 4 3", "l.0.q_proj.op_lora.m.bias F32 4",
        "l.0.q_proj.op_lora.m.norm F32 4",
    ])
try adapter(
    "op-vera", dialect: 2, llama,
    [
        "op_lora.vera_A F32 2 6", "op_lora.vera_B F32 6 2", "l.0.q_proj.op_lora.z F32 2", "l.0.q_proj.op_lora.trunk.weight F32 3 2",
        "l.0.q_proj.op_lora.trunk.bias F32 3", "l.0.q_proj.op_lora.d.weight F32 2 3", "l.0.q_proj.op_lora.d.bias F32 2",
        "l.0.q_proj.op_lora.l.weight F32 4 3", "l.0.q_proj.op_lora.l.bias F32 4",
    ])
let prototype = "base_model.model.l.0.q_proj."
try adapter(
    "prototype", dialect: 2, "{}",
    [
        prototype + "hypernetwork.mlp.0.weight F32 3 2", prototype + "hypernetwork.mlp.0.bias F32 3", prototype + "hypernetwork.mlp.2.weight F32 8 3",
        prototype + "hypernetwork.mlp.2.bias F32 8", prototype + "input_vector F32 1 2", prototype + "rescale F32",
    ])
try adapter(
    "prototype-dora", dialect: 2, "{}",
    ["0.weight F32 3 2", "0.bias F32 3"].map { prototype + "hypernetwork.mlp." + $0 }
        + ["A.weight F32 4 3", "A.bias F32 4", "B.weight F32 4 3", "B.bias F32 4", "C.weight F32 4 3", "C.bias F32 4"].map {
            prototype + "hypernetwork.mlp_" + $0
        } + [prototype + "input_vector F32 1 2", prototype + "weight_m_wdecomp.weight F32 4 1"])
try adapter(
    "vera", dialect: 0, #"{"peft_type":"VERA","r":2,"save_projection":true}"#,
    ["base_model.vera_A F32 2 6", "base_model.vera_B F32 6 2", key + "l.0.q_proj.vera_lambda_d F32 2", key + "l.0.q_proj.vera_lambda_b F32 4"])
let ggufPath = "adapter.gguf"
let gguf = try GGUFWriter(
    path: ggufPath,
    metadata: [
        "general.architecture": .string("llama"), "general.type": .string("adapter"), "adapter.type": .string("lora"),
        "adapter.lora.alpha": .real(3),
    ],
    tensors: [
        .init(name: "blk.0.attn_q.weight.lora_a", type: .f32, shape: [1, 4]), .init(name: "blk.0.attn_q.weight.lora_b", type: .f32, shape: [4, 1]),
    ], replacing: true)
let numbers = [UInt8](repeating: 0x3C, count: 16)
// Sound: every bit pattern of a byte may be read as a raw byte.
for _ in 0..<2 { try gguf.write(unsafe numbers.span.bytes) }
try gguf.publish(durable: false)
try write([3] + Array(FileSystem.contents(of: ggufPath, limit: 4096)), "adapter", "gguf")
try FileSystem.remove(ggufPath)
try adapter(
    "mlx-dora", dialect: 1, #"{"fine_tune_type":"dora","lora_parameters":{"scale":1}}"#,
    ["l.0.up_proj.lora_a F32 4 2", "l.0.up_proj.lora_b F32 2 6", "l.0.up_proj.m F32 6"])

// MARK: checkpoint

var generator = SeededGenerator(seed: 1)

func checkpoint(_ name: String, _ metadata: JSONValue, _ tensors: [(name: String, dtype: DType, shape: [Int], bytes: [UInt8])]) throws {
    var writer = try CheckpointWriter(
        path: corpus + "/checkpoint/" + name, replacing: true, options: CheckpointWriter.Options(kind: "test", metadata: metadata))
    for tensor in tensors {
        // Sound: every bit pattern of a byte may be read as a raw byte.
        try writer.append(name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, bytes: unsafe tensor.bytes.span.bytes)
    }
    _ = try writer.finish(durable: false)
}

/// Floats as weights are: their exponents take few values.
func floats(_ count: Int, _ generator: inout SeededGenerator) -> [UInt8] {
    var bytes: [UInt8] = []
    for _ in 0..<count {
        let bits = (Float(generator.normal()) * 0.02).bitPattern
        for byte in 0..<4 { bytes.append(UInt8(truncatingIfNeeded: bits >> (8 * byte))) }
    }
    return bytes
}

try checkpoint("no-tensors", ["step": 5], [])
try checkpoint(
    "every-method", ["nested": ["list": [1, 2.5, "text", .null, true]]],
    [
        ("constant", .u8, [64], [UInt8](repeating: 7, count: 64)), ("random", .u8, [40], generator.bytes(40)),
        ("weights", .f32, [100, 6], floats(600, &generator)), ("repeating", .i16, [400], (0..<80).flatMap { _ in Array("some words".utf8) }),
        ("empty", .f64, [0, 3], []), ("scalar", .bf16, [], [0x80, 0x3F]),
    ])
try checkpoint("two-chunks", [:], [("zeros", .f32, [300_000], [UInt8](repeating: 0, count: 1_200_000))])
try checkpoint("packed", [:], [("f4", .f4, [3, 8], generator.bytes(12)), ("f6", .f6E2M3, [16], generator.bytes(12))])

/// A file of the given tensors, without their hashes.
func checkpoint(_ name: String, _ options: CheckpointWriter.Options, _ tensors: [TensorContent]) throws {
    var writer = try CheckpointWriter(path: corpus + "/checkpoint/" + name, replacing: true, options: options)
    try writer.append(tensors)
    try writer.finish(durable: false)
}

try checkpoint(
    "pack", .packedFolder(["a/b.safetensors", "c", "d/"], hashesTensors: false, threads: 1),
    [
        TensorContent(name: "", dtype: .u8, shape: [20], file: 0, bytes: MemoryBytes(generator.bytes(20))),
        TensorContent(name: "w", dtype: .bf16, shape: [5], file: 0, bytes: MemoryBytes(generator.bytes(10))),
        TensorContent(name: "", dtype: .u8, shape: [3], file: 1, bytes: MemoryBytes([1, 2, 3])),
    ])
let (before, after) = (MemoryBytes(floats(64, &generator)), MemoryBytes(floats(64, &generator)))
try checkpoint(
    "differences", CheckpointWriter.Options(kind: "test", hashesTensors: false),
    [
        TensorContent(name: "same", dtype: .f32, shape: [64], bytes: before, base: ("old", before)),
        TensorContent(name: "other", dtype: .f32, shape: [64], bytes: after, base: ("old", before)),
        TensorContent(name: "new", dtype: .f32, shape: [64], bytes: after),
    ])

// MARK: huffman

/// What the kernel writes for a plane, as the target takes it.
func coded(_ plane: [UInt8], streams: Int) -> [UInt8] {
    let encoder = unsafe oplora_huffman_encoder_create(false)
    defer { unsafe oplora_huffman_encoder_destroy(encoder) }
    var counts = [UInt32](repeating: 0, count: 256)
    var plan = oplora_huffman_plan()
    // Sound: the kernels keep to the sizes that they are given, which are those of the arrays.
    unsafe oplora_huffman_count(encoder, plane, plane.count, false, &counts)
    unsafe oplora_huffman_make_plan(counts, plane.count, streams, 12, &plan)
    var payload = [UInt8](repeating: 0, count: plan.most)
    let size = unsafe oplora_huffman_encode(encoder, &plan, plane, plane.count, &payload, payload.count)
    precondition(size > 0, "the plan is wrong")
    var input: [UInt8] = [streams == 1 ? 0 : 1, UInt8(plan.shared), UInt8(plane.count & 255), UInt8(plane.count >> 8)]
    guard streams > 1 else { return input + payload[..<size] }
    let lengths = 2 + plan.shared
    input += payload[2..<lengths]
    var position = lengths + 4 * (streams - 1)
    for part in 0..<streams {
        let end = part < streams - 1 ? position + Int(payload[lengths + 4 * part]) : size
        if part < streams - 1 { input.append(UInt8(end - position)) }
        input += payload[position..<end]
        position = end
    }
    return input
}

let normal = (0..<600).map { _ in UInt8(truncatingIfNeeded: Int(generator.normal() * 5)) }
let rare = (0..<900).map { _ in generator.next() % 60 == 0 ? UInt8(truncatingIfNeeded: generator.next()) : 126 }
for (name, plane) in [("normal", normal), ("rare", rare)] {
    for streams in [1, Int(oplora_huffman_streams)] {
        try write(coded(plane, streams: streams), "huffman", "\(name)-\(streams)")
        try write([streams == 1 ? 2 : 3, 0, 0, 0] + plane, "huffman", "encode-\(name)-\(streams)")
    }
}
