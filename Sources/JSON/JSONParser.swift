internal import CJSONC
internal import FileIO
internal import OrderedCollections

extension JSONValue {
    /// How deep lists and objects may nest.
    public static let defaultMaximumDepth = 64

    /// Parses a JSON text in UTF-8: checked strictly first, then read by json-c.
    ///
    /// - Throws: `JSONError` with the byte offset of the fault.
    public init(parsing text: [UInt8], maximumDepth: Int = defaultMaximumDepth) throws(JSONError) {
        try self.init(text, maximumDepth: maximumDepth, allowsNonFinite: false)
    }

    /// Parses a configuration file: JSON, and `NaN`, `Infinity` and `-Infinity`, which Python's `json` writes.
    ///
    /// - Throws: `JSONError` with the byte offset of the fault, or what the file is in place of JSON.
    public init(configuration text: [UInt8]) throws(JSONError) {
        do throws(JSONError) {
            try self.init(text, maximumDepth: Self.defaultMaximumDepth, allowsNonFinite: true)
        } catch {
            let nature = FileNature(text)
            switch nature {
            case .empty?, .lfsPointer?, .webPage?, .xml?: throw JSONError(error.code, nature?.explanation ?? error.message)
            default: throw error
            }
        }
    }

    private init(_ text: [UInt8], maximumDepth: Int, allowsNonFinite: Bool) throws(JSONError) {
        let replacements = try StrictScanner.check(text, maximumDepth: maximumDepth, allowsNonFinite: allowsNonFinite)
        let text = Self.resolving(replacements, in: text)
        guard text.count <= Int(Int32.max) else { throw JSONError(.tooDeep, "a JSON text of more than 2 GiB is not read") }
        guard let tokener = unsafe json_tokener_new_ex(Int32(maximumDepth + 2)) else {
            throw JSONError(.empty, "there is no memory for the JSON reader")
        }
        defer { unsafe json_tokener_free(tokener) }
        unsafe json_tokener_set_flags(tokener, oplora_json_strict_flags)
        // Sound: json-c reads at most `count` bytes and the array outlives the call. A top-level number needs to see the
        // end of the text to be complete, hence the NUL that Swift's own C string bridging adds.
        let root = unsafe (text + [0]).withUnsafeBytes { raw in
            unsafe json_tokener_parse_ex(tokener, raw.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(raw.count))
        }
        let status = unsafe json_tokener_get_error(tokener)
        guard status == json_tokener_success else {
            let reason = unsafe String(cString: json_tokener_error_desc(status))
            throw JSONError(.unexpectedCharacter, at: unsafe json_tokener_get_parse_end(tokener), "json-c refuses the text (\(reason))")
        }
        // Without memory json-c says that all went well and gives nothing, which is also how it gives null.
        guard unsafe root != nil || text.first(where: { $0 > 0x20 }) == UInt8(ascii: "n") else {
            throw JSONError(.empty, "there is no memory for the JSON document")
        }
        defer { unsafe json_object_put(root) }
        self = try unsafe Self.value(of: root)
    }

    /// The text with each replacement made.
    private static func resolving(_ replacements: [StrictScanner.Replacement], in text: [UInt8]) -> [UInt8] {
        guard !replacements.isEmpty else { return text }
        var resolved: [UInt8] = []
        resolved.reserveCapacity(text.count)
        var position = 0
        for replacement in replacements {
            resolved += text[position..<replacement.range.lowerBound]
            resolved += replacement.bytes
            position = replacement.range.upperBound
        }
        return resolved + text[position...]
    }

    public init(parsing text: String, maximumDepth: Int = defaultMaximumDepth) throws(JSONError) {
        try self.init(parsing: Array(text.utf8), maximumDepth: maximumDepth)
    }

    /// Copies a json-c document into a value. The nesting has been bounded by the scanner.
    ///
    /// - Throws: `JSONError.duplicateKey` for two keys of one object that Unicode counts as the same text, such as an
    ///   accented letter in one piece and in two: a dictionary would keep one of them and lose the other.
    private static func value(of node: OpaquePointer?) throws(JSONError) -> JSONValue {
        switch unsafe json_object_get_type(node) {
        case json_type_boolean: return .bool(unsafe json_object_get_boolean(node) != 0)
        case json_type_int: return .integer(Int(unsafe json_object_get_int64(node)))
        case json_type_double: return .real(unsafe json_object_get_double(node))
        case json_type_string:
            let length = Int(unsafe json_object_get_string_len(node))
            let start = unsafe UnsafeRawPointer(json_object_get_string(node))
            return .string(unsafe String(decoding: UnsafeRawBufferPointer(start: start, count: length), as: UTF8.self))
        case json_type_array:
            var elements: [JSONValue] = []
            for index in 0..<Int(unsafe json_object_array_length(node)) {
                elements.append(try unsafe value(of: json_object_array_get_idx(node, index)))
            }
            return .array(elements)
        case json_type_object:
            var members = OrderedDictionary<String, JSONValue>()
            var entry = unsafe json_object_get_object(node)?.pointee.head
            while let current = unsafe entry {
                let key = unsafe String(cString: current.pointee.k.assumingMemoryBound(to: CChar.self))
                guard members.updateValue(try unsafe value(of: OpaquePointer(current.pointee.v)), forKey: key) == nil else {
                    throw JSONError(.duplicateKey, "the key \"\(key)\" appears twice, in two spellings that Unicode counts as the same")
                }
                unsafe entry = current.pointee.next
            }
            return .object(members)
        default: return .null
        }
    }
}
