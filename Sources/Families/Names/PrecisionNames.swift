/// The names of tensors that transformers loads in another type than it is asked for, in all families.
public enum PrecisionNames {
    /// The ends of the names of tensors that it widens to F32: routers and the like.
    ///
    /// Source: transformers 5.24, `_keep_in_fp32_modules_strict`.
    public static let keptWide = [".gate.weight", ".e_score_correction_bias", ".expert_bias", ".dt_bias", ".sinks"]
}
