/// What is known of a family of models: data alone, in one row of one table.
///
/// A family is told by the `model_type` of `config.json`, and never by the name of a class.
public struct ModelFamily: Sendable {
    /// The `model_type`s of its models.
    public let types: Set<String>
    /// What a block of its language model is made of, where that is run here.
    public let block: BlockDescription?

    public init(_ types: String..., block: BlockDescription? = nil) {
        self.types = Set(types)
        self.block = block
    }
}
