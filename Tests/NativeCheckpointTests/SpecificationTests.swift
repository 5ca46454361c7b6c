import Foundation
import JSON
import Tensors
import TestSupport
import Testing

@testable import NativeCheckpoint

/// The code against `formats/`: the specification's text, its bytes, and the decoder written from it.
@Suite struct SpecificationTests {
    private static let formats = URL(filePath: #filePath)
        .deletingLastPathComponent().resolvingSymlinksInPath()
        .deletingLastPathComponent().deletingLastPathComponent().appending(path: "formats")

    private static func specification() throws -> String {
        try String(contentsOf: formats.appending(path: "native-checkpoint.md"), encoding: .utf8)
    }

    /// The chapter's table and the enumeration name the same codes.
    @Test func theSpecificationListsEveryCode() throws {
        let text = try Self.specification()
        let chapter = try #require(text.firstRange(of: "## 9. Errors"))
        let end = try #require(text[chapter.upperBound...].firstRange(of: "\n## "))
        let rows = text[chapter.upperBound..<end.lowerBound].matches(of: /\n\| `([a-z-]+)` \|/).map { String($0.1) }
        #expect(Set(rows) == Set(CheckpointError.Code.allCases.map(\.rawValue)))
        #expect(Set(rows).count == rows.count)
    }

    /// The bytes of the block that follows `heading`, written as lines of `bytes  # remark`.
    private static func bytes(after heading: String) throws -> [UInt8] {
        let text = try specification()
        let start = try #require(text.firstRange(of: heading))
        let opening = try #require(text[start.upperBound...].firstRange(of: "```\n"))
        let closing = try #require(text[opening.upperBound...].firstRange(of: "```"))
        return text[opening.upperBound..<closing.lowerBound].split(separator: "\n").flatMap { line in
            line.prefix { $0 != "#" }.split(separator: " ").map { UInt8($0, radix: 16)! }
        }
    }

    private static let example = Sample(name: "w", dtype: .bf16, shape: [3], bytes: [0x80, 0x3F, 0x00, 0xC0, 0xC0, 0x3F])

    @Test func theWorkedExampleIsWhatIsWritten() throws {
        let file = try encoded([Self.example])
        let chunk = try Self.bytes(after: "### 5.4 Worked example")
        #expect(Array(file[32..<(32 + chunk.count)]) == chunk)
        let golden = try Self.bytes(after: "## 12. Test vectors")
        #expect(file == golden)
        try withTemporaryFolder { folder in
            let tensors = try decoded(golden, in: folder)
            #expect(tensors == ["w": Self.example.bytes])
        }
    }

    @Test func referenceDecoderAgrees() throws {
        var generator = SeededGenerator(seed: 5)
        var samples = DType.allCases.map { dtype in
            Sample(name: "t.\(dtype)", dtype: dtype, shape: [4, 25], bytes: generator.bytes(100 * dtype.bitWidth / 8))
        }
        let weights = (0..<400_000).map { _ in Float(generator.normal()) }
        samples.append(Sample(name: "weights", dtype: .f32, shape: [1000, 400], bytes: littleEndian(weights)))
        samples.append(Sample(name: "zeros", dtype: .f64, shape: [150_000], bytes: [UInt8](repeating: 0, count: 1_200_000)))
        samples.append(Sample(name: "text ü\"\n", dtype: .u8, shape: [6000], bytes: (0..<6000).map { UInt8($0 % 7) }))
        samples.append(Sample(name: "none", dtype: .bf16, shape: [0], bytes: []))
        samples.append(Sample(name: "scalar", dtype: .i64, shape: [], bytes: generator.bytes(8)))
        try withTemporaryFolder { folder in
            for chunkSize in [64 * 11, Format.defaultChunkSize] {
                let path = folder + "/fresh-\(chunkSize).opck"
                let out = folder + "/fresh-\(chunkSize).safetensors"
                try write(samples, to: path, metadata: ["step": 1, "lr": 1e-5, "note": "ü"], chunkSize: chunkSize)
                let check = try python(["check", path])
                #expect(check.output == "\(path): ok\n" && check.status == 0, "\(check)")
                #expect(try python(["list", path]).status == 0)
                #expect(try python(["extract", path, "--out", out]).status == 0)

                let extracted = try readAll(out)
                let headerLength = Int(extracted.rawBytes.integer(at: 0, as: UInt64.self))
                let header = try JSONValue(parsing: Array(extracted[8..<(8 + headerLength)]))
                for sample in samples {
                    let entry = try #require(header[sample.name])
                    let range = try #require(entry["data_offsets"]?.arrayValue).compactMap(\.integerValue)
                    #expect(Array(extracted[(8 + headerLength + range[0])..<(8 + headerLength + range[1])]) == sample.bytes)
                    #expect(entry["dtype"]?.stringValue == sample.dtype.rawValue)
                    #expect(entry["shape"] == .array(sample.shape.map(JSONValue.integer)))
                }
            }
        }
    }

    /// Damage of every kind: Python and Swift give the same codes.
    @Test func referenceDecoderRefusesTheSame() throws {
        let file = try encoded(
            [
                Self.example, Sample(name: "x", dtype: .f32, shape: [20], bytes: littleEndian((0..<20).map { Float($0) })),
            ], chunkSize: 64)
        try withTemporaryFolder { folder in
            var expected: [String] = []
            var paths: [String] = []
            func add(_ bytes: [UInt8]) throws {
                let path = folder + "/bad-\(paths.count).opck"
                try Data(bytes).write(to: URL(filePath: path))
                paths.append(path)
                expected.append(fault(bytes, in: folder)?.code.rawValue ?? "ok")
            }
            for position in file.indices {
                var damaged = file
                damaged[position] ^= 0x10
                try add(damaged)
            }
            for length in stride(from: 0, to: file.count, by: 37) { try add(Array(file[..<length])) }
            // With checksums made right again, in the order of the parts.
            for position in file.indices {
                var forged = Forgery(file)
                forged.bytes[position] ^= 0x01
                forged.reseal()
                try add(forged.bytes)
            }
            try add(file)
            let check = try python(["check"] + paths)
            #expect(check.status == 1)
            let lines = check.output.split(separator: "\n")
            #expect(lines.count == paths.count)
            for (number, line) in lines.enumerated() {
                let rest = line.dropFirst(paths[number].count + 2)
                #expect(rest.prefix { $0 != ":" } == expected[number], "\(line)")
            }
            #expect(expected.last == "ok")
        }
    }

    private func python(_ arguments: [String]) throws -> (status: Int32, output: String) {
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = ["python3", Self.formats.appending(path: "reference/opck.py").path] + arguments
        let pipe = Pipe()
        process.standardOutput = pipe
        try process.run()
        let output = try pipe.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: output, as: UTF8.self))
    }
}
