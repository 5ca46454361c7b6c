import FileIO
import Foundation
import Hashing
import TestSupport

/// The SHA-256 of bytes, in 64 lower-case hexadecimal digits.
func hash(_ bytes: [UInt8]) -> String { SHA256Digest.hex(of: unsafe bytes.span.bytes) }

/// The SHA-256 of each file below a folder by path; an empty folder counts as an empty file with a slash at the end.
func files(in folder: String, prefix: String = "") throws -> [String: String] {
    var result: [String: String] = [:]
    for name in try FileSystem.names(in: FileSystem.join(folder, prefix)) {
        let path = prefix + name
        guard FileSystem.isFolder(FileSystem.join(folder, path)) else {
            result[path] = hash(try readAll(FileSystem.join(folder, path)))
            continue
        }
        let inner = try files(in: folder, prefix: path + "/")
        result.merge(inner.isEmpty ? [path + "/": hash([])] : inner) { $1 }
    }
    return result
}

/// Runs Python to its end.
func python(_ arguments: [String]) throws -> (status: Int32, output: String, errors: String) {
    let folder = try TemporaryFolder()
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = ["python3", "-B"] + arguments
    // Files and not pipes: nobody has to drain them for Python to go on.
    for name in ["output", "errors"] { try Data().write(to: URL(fileURLWithPath: folder.path(name))) }
    process.standardOutput = FileHandle(forWritingAtPath: folder.path("output"))
    process.standardError = FileHandle(forWritingAtPath: folder.path("errors"))
    try process.run()
    process.waitUntilExit()
    func text(_ name: String) throws -> String { String(decoding: try readAll(folder.path(name)), as: UTF8.self) }
    return (process.terminationStatus, try text("output"), try text("errors"))
}

/// Runs the reference decoder.
func reference(_ arguments: [String]) throws -> (status: Int32, output: String, errors: String) {
    try python([Repository.root + "/formats/reference/opck.py"] + arguments)
}
