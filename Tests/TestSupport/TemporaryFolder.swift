import FileIO

/// A folder that is gone when the test is.
public final class TemporaryFolder {
    public let path: String

    public init() throws {
        path = "/tmp/oplora-test-\(UInt64.random(in: 0 ... .max))"
        try FileSystem.createFolder(path)
    }

    deinit { try? FileSystem.remove(path) }

    public func path(_ name: String) -> String { FileSystem.join(path, name) }
}

public func write(_ bytes: [UInt8], _ path: String) throws {
    let file = try AtomicFile(path: path, replacing: true)
    try file.write(bytes)
    try file.publish(durable: false)
}

public func writeText(_ text: String, _ path: String) throws { try write(Array(text.utf8), path) }

public func readAll(_ path: String) throws -> [UInt8] { try FileSystem.contents(of: path, limit: 1 << 30) }
