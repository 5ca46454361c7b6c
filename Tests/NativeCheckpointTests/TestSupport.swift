import FileIO
import Foundation
import JSON
import OrderedCollections
import Tensors
import TestSupport

@testable import NativeCheckpoint

/// One tensor to be written.
struct Sample {
    var name: String
    var dtype: DType
    var shape: [Int]
    var bytes: [UInt8]
}

/// Runs `body` with a fresh folder and removes it afterwards.
func withTemporaryFolder<Result>(_ body: (String) throws -> Result) throws -> Result {
    let folder = try TemporaryFolder()
    // It is removed when nothing holds it any more, and the body has only its path.
    return try withExtendedLifetime(folder) { try body(folder.path) }
}

/// The bytes of floats as they lie in a file.
func littleEndian(_ values: [Float]) -> [UInt8] {
    // Every machine that this runs on has its little end first.
    unsafe values.withUnsafeBytes { unsafe Array($0) }
}

/// Writes a file of the given tensors.
func write(
    _ samples: [Sample], to path: String, kind: String = "test", metadata: JSONValue = [:], chunkSize: Int = Format.defaultChunkSize,
    prologue: Prologue = Prologue()
) throws {
    var writer = try CheckpointWriter(
        to: try AtomicFile(path: path, replacing: true), options: CheckpointWriter.Options(kind: kind, metadata: metadata),
        chunkSize: chunkSize, prologue: prologue)
    for sample in samples {
        try writer.append(name: sample.name, dtype: sample.dtype, shape: sample.shape, bytes: sample.bytes.rawBytes)
    }
    try writer.finish(durable: false)
}

/// The bytes of a file of the given tensors.
func encoded(
    _ samples: [Sample], metadata: JSONValue = [:], chunkSize: Int = Format.defaultChunkSize, prologue: Prologue = Prologue()
) throws -> [UInt8] {
    try withTemporaryFolder { folder in
        let path = folder + "/file.opck"
        try write(samples, to: path, metadata: metadata, chunkSize: chunkSize, prologue: prologue)
        return try readAll(path)
    }
}

/// Opens a file of the given bytes and checks all of it; the tensors' bytes by name.
@discardableResult
func decoded(_ file: [UInt8], in folder: String, limits: CheckpointLimits = .format) throws -> [String: [UInt8]] {
    let path = folder + "/decoded.opck"
    guard FileManager.default.createFile(atPath: path, contents: Data(file)) else { preconditionFailure("cannot write \(path)") }
    let checkpoint = try CheckpointFile(path: path, limits: limits)
    try checkpoint.verifyAll()
    var tensors: [String: [UInt8]] = [:]
    for name in checkpoint.tensors.keys { tensors[name] = try checkpoint.read(name) }
    return tensors
}

/// The code of the error that opening and checking a file of the given bytes gives; `nil` when it gives none.
func fault(_ file: [UInt8], in folder: String, limits: CheckpointLimits = .format) -> CheckpointError? {
    do {
        try decoded(file, in: folder, limits: limits)
        return nil
    } catch {
        return error as? CheckpointError
    }
}
