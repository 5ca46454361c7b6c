internal import CCrypto

/// A SHA-256 digest in the making; the only face of the cryptography library that the project uses.
@safe public struct SHA256Digest: ~Copyable {
    private let context: OpaquePointer

    public init() {
        // Sound: `new` gives a context or, without memory, nothing; the algorithm is built into the library.
        guard let context = unsafe EVP_MD_CTX_new(), unsafe EVP_DigestInit_ex(context, EVP_sha256(), nil) == 1 else {
            preconditionFailure("there is no memory for a digest")
        }
        unsafe self.context = context
    }

    deinit { unsafe EVP_MD_CTX_free(context) }

    /// Adds bytes to the digest.
    public mutating func update(_ bytes: RawSpan) {
        // Sound: the pointer is used only during the call, while `bytes` is alive. Adding bytes cannot fail.
        unsafe bytes.withUnsafeBytes { _ = unsafe EVP_DigestUpdate(context, $0.baseAddress, $0.count) }
    }

    /// The digest of everything added: 32 bytes.
    public consuming func finish() -> [UInt8] {
        var digest = [UInt8](repeating: 0, count: 32)
        // Sound: the algorithm writes 32 bytes.
        _ = unsafe EVP_DigestFinal_ex(context, &digest, nil)
        return digest
    }

    /// The digest of everything added, in 64 lower-case hexadecimal digits.
    public consuming func finishHex() -> String {
        hexadecimal(finish())
    }

    /// The SHA-256 of `bytes`, in 64 lower-case hexadecimal digits.
    public static func hex(of bytes: RawSpan) -> String {
        var digest = SHA256Digest()
        digest.update(bytes)
        return digest.finishHex()
    }
}

/// Bytes as lower-case hexadecimal digits.
public func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in bytes {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
}
