/// The names of models inside models, and of what lies beside them, in all families.
public enum CompositeNames {
    /// The models around others, in memory or in files.
    public static let outer: Set<Substring> = ["model", "language_model"]
    /// The first components of a language model.
    public static let ofText: Set<Substring> = ["layers", "embed_tokens", "embed_tokens_per_layer", "norm"]

    /// The modules beside an inner model.
    public static let heads: Set<Substring> = ["lm_head", "score", "classifier"]
    /// Those that are so only without another name in front. An inner model may have parts of these names, too.
    public static let otherHeads: Set<Substring> = ["head", "projection_head", "qa_outputs"]

    /// The sides of one model, whose layers may have the same names.
    public static let sides: Set<Substring> = ["encoder", "decoder"]
    /// The beginnings of the names of models that stand beside others, whose layers may have the same names.
    public static let towers = [
        "vision", "visual", "audio", "image_", "video_", "speech_encoder", "talker", "token2wav",
    ]
    /// The modules beside the language model in a model of text and more.
    public static let besideText: Set<Substring> = [
        "visual", "vision_tower", "vision_model", "multi_modal_projector", "mm_projector", "audio_tower", "embed_vision",
        "embed_audio", "connector",
    ]
}
