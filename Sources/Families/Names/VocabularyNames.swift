/// The names that embeddings and heads have in language models of all families.
public enum VocabularyNames {
    /// The modules that embed tokens. The rest of the model tells which of them are tied.
    public static let embeddings: Set<Substring> = [
        "embed_tokens", "wte", "word_embeddings", "word_embedding", "tok_embeddings", "tokens_embed", "embed_in",
        "embeddings",
        "shared",
    ]
    /// The embeddings that the sides of an encoder–decoder model share.
    public static let sharedEmbeddings = ["shared", "word_embeddings"]
    public static let heads: Set<Substring> = ["lm_head", "embed_out"]
    /// The heads that some families call otherwise than `lm_head`.
    public static let otherHeads = [
        "embed_out", "output", "output_layer", "proj_out", "output_projection", "lm_loss", "head",
    ]

    /// Heads of several layers. The files hold their other layers even where the last one is the embedding's matrix.
    public static let layeredHeads: [(matrix: String, layer: String)] = [
        ("cls.predictions.decoder", "cls.predictions.transform.dense"), ("lm_head.decoder", "lm_head.dense"),
        ("predictions.decoder", "predictions.dense"), ("vocab_projector", "vocab_transform"),
        ("generator_lm_head", "generator_predictions.dense"), ("decoder", "head.dense"),
    ]

    /// A layer of each head for another task than language: classes of texts or tokens, spans of text, choices.
    ///
    /// Source: transformers 5.24, the modules of classes for such tasks.
    public static let taskHeads = [
        "score", "score.out_proj", "classifier", "classifier.dense", "classifier.linear_hidden",
        "classification_head.dense",
        "qa_outputs", "qa_outputs.start_logits.dense", "start_logits.dense", "sequence_summary.summary", "logits_proj",
        "discriminator_predictions.dense",
    ]

    /// The names of inner models, beside which the head lies.
    public static let innerModels: Set<Substring> = ["model", "transformer", "backbone", "gpt_neox", "rwkv"]
    /// The names of parts of an inner model, which also stand in its own files.
    public static let innerParts: Set<Substring> = embeddings.union(sides.map { Substring($0) }).union([
        "language_model", "text_model",
    ])
    /// The sides of an encoder–decoder model.
    public static let sides = ["encoder", "decoder", "text_encoder", "text_decoder"]
}
