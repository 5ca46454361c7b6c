// swift-tools-version: 6.2
import PackageDescription

/// Settings of every Swift target: Swift 6 mode, no implicit imports, memory safety checked, no warning left standing.
let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableExperimentalFeature("Lifetimes"),
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
]

let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let orderedCollections = Target.Dependency.product(name: "OrderedCollections", package: "swift-collections")

func module(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: strict)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(name: name, dependencies: dependencies, swiftSettings: strict)
}

let package = Package(
    name: "oplora",
    products: [
        .executable(name: "oplora", targets: ["oplora"]),
        // Preloaded into the program by the end-to-end tests; of no use to anyone else.
        .library(name: "FaultyCalls", type: .dynamic, targets: ["FaultyCalls"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
    ],
    targets: [
        // Dependencies point down: a target imports only what stands below it.
        .executableTarget(name: "oplora", dependencies: ["Commands"], swiftSettings: strict),
        module(
            "Commands",
            [
                "Inspection", "Verification", "Execution", "Training", "Methods", "LanguageModel", "Tokenizer", "Adapters", "Packing",
                "NativeCheckpoint", "Weights",
                "Safetensors", "GGUF", "HTML", "Kernels", "JSON", "FileIO", "CFileIO", "Tensors", "Hashing", "VisibleText", argumentParser,
                orderedCollections,
            ]),
        module(
            "Inspection",
            [
                "Execution", "Verification", "Training", "Methods", "LanguageModel", "Adapters", "Packing", "NativeCheckpoint", "Weights",
                "Safetensors",
                "GGUF", "HTML", "Kernels", "JSON", "FileIO", "Tensors", "VisibleText", orderedCollections,
            ]),
        module(
            "Verification",
            [
                "Execution", "Training", "Methods", "LanguageModel", "Families", "Adapters", "Weights", "Safetensors", "Kernels", "JSON", "FileIO",
                "Tensors", "Hashing", "VisibleText", orderedCollections,
            ]),
        module("Execution", ["Training", "Methods", "Adapters", "NativeCheckpoint", "Kernels"]),
        module(
            "Training",
            [
                "Methods", "LanguageModel", "Tokenizer", "NativeCheckpoint", "Weights", "Safetensors", "Kernels", "JSON", "FileIO",
                "Tensors", "Hashing", orderedCollections,
            ]),
        module("Methods", ["Weights", "Safetensors", "Kernels", "FileIO", "Tensors"]),
        module("LanguageModel", ["Families", "Kernels", "Weights", "JSON", "FileIO", "Tensors", orderedCollections]),
        module("Tokenizer", ["JSON", "FileIO", orderedCollections]),
        module(
            "Adapters",
            ["Families", "Methods", "Weights", "Safetensors", "GGUF", "Kernels", "JSON", "FileIO", "Tensors", "Hashing", orderedCollections]),
        module("Packing", ["NativeCheckpoint", "Weights", "Safetensors", "JSON", "FileIO", "Tensors", orderedCollections]),
        module("NativeCheckpoint", ["Kernels", "CKernels", "CZlib", "JSON", "FileIO", "Tensors", "Hashing", orderedCollections]),
        module("GGUF", ["FileIO", "Tensors", orderedCollections]),
        module("Families", []),
        module("Weights", ["Safetensors", "GGUF", "JSON", "FileIO", "Tensors", orderedCollections]),
        module("Safetensors", ["JSON", "FileIO", "Tensors", "Hashing", orderedCollections]),
        module("Kernels", ["CKernels", "COneDNN", "FileIO", "Tensors"]),
        module("JSON", ["CJSONC", "FileIO", "VisibleText", orderedCollections]),
        module("Hashing", ["CCrypto"]),
        module("HTML", ["VisibleText"]),
        module("FileIO", ["CFileIO"]),
        module("Tensors", []),
        module("VisibleText", []),

        .executableTarget(
            name: "CheckpointSpeed", dependencies: ["NativeCheckpoint", "Safetensors", "Kernels", "FileIO", "Tensors", orderedCollections],
            path: "Benchmarks/CheckpointSpeed",
            swiftSettings: strict),
        .executableTarget(
            name: "MakeCorpus",
            dependencies: ["TestSupport", "NativeCheckpoint", "Safetensors", "GGUF", "CKernels", "FileIO", "JSON", "Tensors", orderedCollections],
            path: "Fuzz/MakeCorpus",
            swiftSettings: strict),
        .target(name: "FaultyCalls", path: "Tests/FaultyCalls", cSettings: [.treatAllWarnings(as: .error)]),
        // What every test target may use, the lowest too; models in folders, which take adapters and more, are `TestModels`.
        .target(name: "TestSupport", dependencies: ["FileIO"], path: "Tests/TestSupport", swiftSettings: strict),
        .target(
            name: "TestModels",
            dependencies: ["TestSupport", "Adapters", "Weights", "Safetensors", "Kernels", "JSON", "FileIO", "Tensors", orderedCollections],
            path: "Tests/TestModels", swiftSettings: strict),
        tests("JSONTests", ["JSON"]),
        tests("VisibleTextTests", ["VisibleText"]),
        tests("FamiliesTests", ["Families"]),
        tests("KernelsTests", ["TestSupport", "Kernels", "CKernels", "FileIO", "Tensors"]),
        tests("TokenizerTests", ["TestSupport", "Tokenizer", "JSON", "FileIO", orderedCollections]),
        tests(
            "NativeCheckpointTests",
            ["TestSupport", "NativeCheckpoint", "JSON", "FileIO", "Tensors", "Hashing", "CKernels", "CZlib", orderedCollections]),
        tests(
            "AdaptersTests",
            [
                "TestModels", "TestSupport", "Methods", "Adapters", "Verification", "Weights", "GGUF", "Safetensors", "Kernels", "CKernels", "JSON",
                "FileIO",
                "Tensors",
                "Hashing",
                orderedCollections,
            ]),
        tests(
            "VerificationTests",
            [
                "TestModels", "TestSupport", "Verification", "Methods", "Adapters", "Weights", "Safetensors", "Kernels", "JSON", "FileIO", "Tensors",
                "Hashing",
                orderedCollections,
            ]),
        tests(
            "EndToEndTests",
            [
                "oplora", "Commands", argumentParser, "FaultyCalls", "TestModels", "TestSupport", "Verification", "Training", "Methods", "Adapters",
                "NativeCheckpoint", "Weights", "Safetensors", "JSON",
                "FileIO",
                "Tensors", "Hashing",
                orderedCollections,
            ]),
        tests(
            "PackingTests",
            [
                "TestSupport", "Packing", "NativeCheckpoint", "Safetensors", "JSON", "FileIO", "Tensors", "Hashing", orderedCollections,
            ]),
        tests("FileIOTests", ["TestSupport", "FileIO"]),
        tests("HTMLTests", ["HTML"]),
        tests("GGUFTests", ["TestSupport", "GGUF", "FileIO", "Tensors", orderedCollections]),
        tests("WeightsTests", ["TestModels", "TestSupport", "Weights", "Safetensors", "GGUF", "JSON", "FileIO", "Tensors", orderedCollections]),
        tests("SafetensorsTests", ["TestModels", "TestSupport", "Weights", "Safetensors", "JSON", "FileIO", "Tensors", orderedCollections]),
        tests(
            "LanguageModelTests",
            [
                "TestModels", "TestSupport", "LanguageModel", "Families", "Weights", "Safetensors", "Kernels", "JSON", "FileIO", "Tensors",
                orderedCollections,
            ]),
        tests("MethodsTests", ["TestSupport", "Methods", "Kernels", "Tensors"]),
        tests(
            "TrainingTests",
            [
                "TestModels", "TestSupport", "Training", "Methods", "LanguageModel", "Families", "Tokenizer", "NativeCheckpoint", "Weights",
                "Safetensors", "Kernels", "JSON", "Tensors", orderedCollections,
            ]),

        .target(
            name: "CKernels",
            cSettings: [.treatAllWarnings(as: .error)],
            linkerSettings: [.linkedLibrary("m"), .linkedLibrary("pthread", .when(platforms: [.linux]))]),
        .target(name: "CFileIO", cSettings: [.treatAllWarnings(as: .error)]),
        .systemLibrary(name: "CCrypto", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CZlib", providers: [.apt(["libz-dev"])]),
        .systemLibrary(name: "CJSONC", providers: [.apt(["libjson-c-dev"])]),
        .systemLibrary(name: "COneDNN", providers: [.apt(["libdnnl-dev"])]),
    ]
)

// Without libFuzzer, which `scripts/fuzz.sh` asks for, this has no entry point.
if Context.environment["OPLORA_FUZZ"] != nil {
    package.targets.append(
        .executableTarget(
            name: "Fuzz",
            dependencies: [
                "Adapters", "Methods", "Verification", "Tokenizer", "NativeCheckpoint", "Weights", "Safetensors", "CKernels", "CZlib", "JSON",
                "Hashing",
                "FileIO",
                "Tensors",
                orderedCollections,
            ], path: "Fuzz/Targets", swiftSettings: strict))
}
