/// How the names in files become the names of modules in memory, in transformers.
///
/// A renaming is two runs of name components with a space between them, such as `attn.proj attention.o_proj`. The
/// first place where the first run occurs in a name gets the second run, which may be empty. `^` binds the first run
/// to the start of the name. `#` stands for a number and keeps it.
public struct MemoryNaming: Sendable, Equatable {
    /// The modules around the parts of the model, in memory.
    public enum Frame: Sendable, Equatable {
        /// The same ones as in the files.
        case ofFiles
        /// The files may be those of the inner model alone, which holds these parts. Everything else is a head, and
        /// classes for other tasks bring their own.
        case ofInnerModel(parts: Set<String>)
        /// Every name is the same in the files and in memory.
        case kept
        /// No renaming here gives the names in memory.
        case unknown
    }

    /// The renamings of the model and of its parts, in this order.
    public let renamings: [String]
    /// The renamings of a model that stands alone. Inside another model they would hit that model's name for the part.
    public let renamingsAlone: [String]
    public let frame: Frame
    /// The name of the inner model, which lies beside the head: `base_model_prefix` in transformers.
    public let innerModel: String
    /// A prefix of every name in a model of text and images.
    public let outerPrefix: String
    /// Whether the class of the inner model alone has names that are not known here.
    public let hidesInnerModel: Bool
    /// Classes with names that are not known here.
    ///
    /// Only the class tells the modules in memory: the files of two classes can hold the same tensors.
    public let hiddenClasses: Set<String>
    /// Whether the names of norms and convolutions in memory are known. Those of linear layers always are.
    public let knowsAllModules: Bool
    /// Whether mixtures of experts keep `block_sparse_moe` in memory, which is `mlp` in all other families.
    public let keepsMixtures: Bool

    public init(
        _ renamings: [String] = [], alone renamingsAlone: [String] = [], frame: Frame = .ofFiles,
        innerModel: String = "model",
        outerPrefix: String = "", hidesInnerModel: Bool = false, hiddenClasses: Set<String> = [],
        knowsAllModules: Bool = true, keepsMixtures: Bool = false
    ) {
        (self.renamings, self.renamingsAlone) = (renamings, renamingsAlone)
        (self.frame, self.innerModel, self.outerPrefix) = (frame, innerModel, outerPrefix)
        (self.hidesInnerModel, self.hiddenClasses) = (hidesInnerModel, hiddenClasses)
        (self.knowsAllModules, self.keepsMixtures) = (knowsAllModules, keepsMixtures)
    }

    /// A family with the same names in files and in memory.
    public static let kept = MemoryNaming(frame: .kept)
    /// A family with names in memory that are not known here.
    public static let unknown = MemoryNaming(frame: .unknown)

    /// The renamings of every family, after those of its own.
    ///
    /// Source: transformers 5.24, `conversion_mapping.py`.
    public static let general = [
        "embed_out lm_head", "LayerNorm.gamma LayerNorm.weight", "LayerNorm.beta LayerNorm.bias",
        "vision_tower.vision_model vision_tower", "image_tower.vision_model image_tower",
        "video_tower.vision_model video_tower", "vision_model.vision_model vision_model",
        "text_model.text_model text_model",
    ]
    /// The renamings of every family that does not keep the names of mixtures, between its own and the general ones.
    public static let mixtures = ["block_sparse_moe mlp"]
}
