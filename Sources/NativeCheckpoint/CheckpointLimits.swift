/// How much a reader is prepared to believe of a file before it takes memory for it.
///
/// The defaults are the limits of the format itself; a reader of files from strangers may lower them.
public struct CheckpointLimits: Sendable, Equatable {
    /// The largest footer text in bytes.
    public var footerBytes = 1 << 28
    /// The most tensors.
    public var tensors = 1 << 20
    /// The most chunks.
    public var chunks = 1 << 24
    /// The most dimensions that a tensor has.
    public var rank = 32
    /// The most raw bytes, all tensors together. A file of constants is tens of thousands of times smaller than what it
    /// decodes to, so the size of the file alone says little about the memory that its tensors need.
    public var rawBytes = 1 << 44

    /// The limits of the format.
    public static let format = CheckpointLimits()

    public init() {}
}
