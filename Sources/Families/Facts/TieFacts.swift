/// The embedding and the head of a family, as far as the weights do not tell them.
///
/// The weights decide whether the model has a head, and the configuration decides whether it is tied. Most families
/// need no fact: `VocabularyNames` finds both matrices.
public struct TieFacts: Sendable, Equatable {
    /// Two modules that the general rules would miss, by their full paths.
    public struct Pair: Sendable, Equatable {
        public let embedding: String
        public let head: String

        public init(embedding: String, head: String) { (self.embedding, self.head) = (embedding, head) }
    }

    public let pair: Pair?
    /// The name of the head beside the inner model, if it is not `lm_head`.
    public let head: String?
    /// Whether no model of the family has a head of its own: the code multiplies by the embedding itself, or by
    /// neither.
    public let hasNoHead: Bool
    /// Whether the names in whole models may lack the inner model: the files were published without it, or there is
    /// none. In all other families such names are those of the inner model alone, which has no head.
    public let omitsInnerModel: Bool
    /// Whether the code scales the input of the head where the configuration calls the head tied, and only there.
    public let scalesTiedHead: Bool
    /// Whether the field that ties the head also ties layers, of which the files hold one copy.
    public let tiesLayers: Bool

    public init(
        pair: Pair? = nil, head: String? = nil, hasNoHead: Bool = false, omitsInnerModel: Bool = false,
        scalesTiedHead: Bool = false, tiesLayers: Bool = false
    ) {
        (self.pair, self.head, self.hasNoHead) = (pair, head, hasNoHead)
        (self.omitsInnerModel, self.scalesTiedHead, self.tiesLayers) = (omitsInnerModel, scalesTiedHead, tiesLayers)
    }

    /// Source: transformers 5.24, `_tied_weights_keys`.
    public static func pair(_ embedding: String, _ head: String) -> TieFacts {
        TieFacts(pair: Pair(embedding: embedding, head: head))
    }
}
