internal import FileIO
internal import OrderedCollections
internal import Tensors

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
    /// - Returns: what the format permits and programs that use the bytes in place may stumble over, each as a part of a
    ///   sentence; nothing in reference mode.
    /// - Throws: `SafetensorsError` for the first fault, `FileError` where the file cannot be read.
    @discardableResult
    public static func check(path: String, mode: SafetensorsMode) throws -> [String] {
        let file = try MappedFile(path: path)
        do {
            return try check(file, path: path, mode: mode)
        } catch {
            throw error.explained()
        }
    }

    private static func check(_ file: MappedFile, path: String, mode: SafetensorsMode) throws(SafetensorsError) -> [String] {
        switch mode {
        case .strict:
            let content = try SafetensorsHeader.parse(file.bytes, path: path)
            try SafetensorsHeader.checkPadding(file.bytes, path: path)
            try SafetensorsHeader.checkMetadata(file.bytes, content, path: path)
            return alignmentRemarks(Array(content.tensors.values), dataStart: try SafetensorsHeader.dataStart(file.bytes, path: path))
        case .reference:
            try ReferenceHeader(path: path).check(file.bytes)
            return []
        }
    }

    private static func alignmentRemarks(_ tensors: [TensorInfo], dataStart: Int) -> [String] {
        var remarks: [String] = []
        if !dataStart.isMultiple(of: 8) { remarks.append("its data begins at byte \(dataStart), no multiple of 8") }
        let unaligned = tensors.filter { $0.byteCount > 0 && !$0.byteRange.lowerBound.isMultiple(of: max($0.dtype.bitWidth / 8, 1)) }
        if let first = unaligned.first {
            remarks.append(
                "\(unaligned.count) of \(tensors.count) tensors begin at no multiple of their element's size, the first is \(first.name) at byte "
                    + "\(first.byteRange.lowerBound)")
        }
        return remarks
    }
}
