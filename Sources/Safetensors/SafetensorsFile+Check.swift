internal import FileIO

/// What a reader holds a safetensors file to.
public enum SafetensorsMode: String, Sendable, CaseIterable {
    /// The written format: no key twice, no unknown field, metadata of strings, a header that begins with `{` and is filled
    /// up with spaces.
    case strict
    /// What version 0.8 of the reference library accepts, and nothing else.
    case reference
}

extension SafetensorsFile {
    /// Checks a file against a mode; the tensors' bytes are not read.
    ///
    /// - Throws: `SafetensorsError` for the first fault, `FileError` where the file cannot be read.
    public static func check(path: String, mode: SafetensorsMode) throws {
        let file = try MappedFile(path: path)
        switch mode {
        case .strict:
            _ = try SafetensorsHeader.parse(file.bytes, path: path)
            try SafetensorsHeader.checkPadding(file.bytes, path: path)
        case .reference: try ReferenceHeader(path: path).check(file.bytes)
        }
    }
}
