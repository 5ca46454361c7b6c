/// The facts about one family of models: one row of the table.
///
/// The `model_type` in `config.json` tells the family, never the name of a class. A row holds data alone and states
/// only what is special about its family. The engines that use the data live in other modules and ask `ModelFamilies`.
public struct ModelFamily: Sendable {
    /// The `model_type`s of its models, or of models that are parts of others. No other row has them.
    public let types: Set<String>
    /// The names that transformers gives the modules in memory.
    public let memory: MemoryNaming
    /// The embedding, the head, and whether they are one matrix.
    public let ties: TieFacts
    /// The matrices of the experts.
    public let experts: ExpertFacts
    /// The last names of the linear layers that the files store as [in, out].
    public let transposedModules: Set<String>
    /// The last names of tables that no rule recognizes as embeddings.
    public let embeddingModules: Set<String>
    /// The names that ggml gives the modules. `nil` where they are not known.
    public let ggml: GGMLNaming?
    /// The names that mlx-lm gives the modules, and the modules that it cannot adapt.
    public let mlx: MLXNaming
    /// The parts of a block. `nil` where this program does not run the model.
    public let block: BlockDescription?

    public init(
        _ types: String..., memory: MemoryNaming = .init(), ties: TieFacts = .init(), experts: ExpertFacts = .init(),
        transposedModules: Set<String> = [], embeddingModules: Set<String> = [], ggml: GGMLNaming? = nil,
        mlx: MLXNaming = .init(), block: BlockDescription? = nil
    ) {
        self.types = Set(types)
        (self.memory, self.ties, self.experts) = (memory, ties, experts)
        (self.transposedModules, self.embeddingModules) = (transposedModules, embeddingModules)
        (self.ggml, self.mlx, self.block) = (ggml, mlx, block)
    }
}
