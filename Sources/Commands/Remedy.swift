internal import Adapters
internal import FileIO
internal import Inspection
internal import LanguageModel
internal import NativeCheckpoint
internal import Packing
internal import Tokenizer
internal import Training
internal import Verification

/// What to do about errors, faults and verdicts in the words of the command line. The libraries say what is wrong, by a code and where that does
/// not tell enough by a cause, and name no option; which one helps is said here and nowhere else.
enum Remedy {
    /// What the program says of an error: what is wrong, and what to do.
    static func sentence(on error: any Error) -> String {
        if let error = error as? TrainingError, let setting = error.setting { return "\(setting.option) \(error.message)" }
        return (error as? any HasRemedy)?.remedy.map { "\(error); \($0)" } ?? "\(error)"
    }

    /// What to do about a fault of a merged model.
    static func clause(for fault: Fault) -> String? {
        switch fault.cause {
        case .merge(let error)?: error.remedy
        case .maxUlp(let limit)?: "--max-ulp allows \(limit)"
        case .minSurvival(let limit)?: "--min-survival asks for \(limit)"
        case .minArgmaxAgreement(let limit)?: "--min-argmax-agreement asks for \(limit)"
        case nil: nil
        }
    }

    /// The likely cause of a kind of fault, and what to do.
    static func advice(on code: Fault.Code) -> String {
        let more: String? =
            switch code {
            case .dtypeMismatch: "If it was, say so with --dtype."
            case .roundedAway: "`oplora merge --dtype f32` merges into the widest."
            case .gate: "The limits are those of --max-ulp, --min-survival and --min-argmax-agreement."
            case .factorDiffers, .scaleDiffers, .missingModule, .extraModule: "`oplora collapse --verify` checks what it writes."
            default: nil
            }
        return [code.advice, more].compactMap(\.self).joined(separator: " ")
    }

    /// What to do about a merge whose receipt names another element type than it is verified for.
    static func remark(onTypeOfReceipt type: String) -> String {
        "the merged model's receipt says that it was merged with --dtype \(type); verify it with --dtype \(type)"
    }

    /// The command that makes an adapter of another which a serving program takes.
    static func command(for conversion: ServingStack.Conversion) -> String {
        let isOfDiffusion = conversion.layout == .diffusers
        return "oplora convert ADAPTER --to \(conversion.layout.rawValue) --out OUT"
            + (conversion.needsBase ? " --base \(isOfDiffusion ? "PIPELINE" : "MODEL")" : "")
            + (conversion.needsComponent ? " --component COMPONENT\(isOfDiffusion ? ", if it is a diffusion model's" : "")" : "")
    }
}

/// An error that the user may be able to do something about with an option.
private protocol HasRemedy: Error {
    /// A clause; `nil` where no option helps.
    var remedy: String? { get }
}

extension FileError: HasRemedy {
    fileprivate var remedy: String? {
        switch self {
        case .missing(let path) where Self.isHubName(path):
            "if this is the name of a repository on the Hugging Face Hub, "
                + "fetch it first with `hf download \(path) --local-dir \(FileSystem.lastComponent(path))` and name that folder"
        case .exists: "choose another name or allow replacing it with --force"
        default: nil
        }
    }
}

extension CheckpointError: HasRemedy {
    fileprivate var remedy: String? { code == .baseNeeded ? "unpack the file with --against and that file" : fileError?.remedy }
}

extension TokenizerError: HasRemedy {
    fileprivate var remedy: String? { fileError?.remedy }
}

extension PackError: HasRemedy {
    fileprivate var remedy: String? { if case .baseWithoutTensors = self { "pack without --against" } else { nil } }
}

extension InspectionError: HasRemedy {
    fileprivate var remedy: String? { code == .differencesWithoutBase ? "name it with --against" : nil }
}

extension TransformerError: HasRemedy {
    fileprivate var remedy: String? { code == .sequenceTooLong ? "choose a shorter --seq-len" : nil }
}

extension AdapterError: HasRemedy {
    fileprivate var remedy: String? {
        switch cause {
        case .needsBase?: "name the base with --base"
        case .needsBaseOfDiffusers?: "name the base in diffusers' form with --base"
        case .needsBaseForFamily?: "say which it is with --base"
        case .needsBaseOrComponent?: "name the base with --base, or the component with --component"
        case .needsComponent?: "say it with --component"
        case .hasSeveralComponents?: "choose one with --component"
        case .isOfLanguageModel?:
            "write peft, mlx or gguf, which programs for language models load, or say --component text_encoder if the model is a pipeline's text encoder"
        case .needsAlpha?: "say the alpha with --alpha"
        case .hasSeveralAlphas?: "say which alpha counts with --alpha"
        case .hasOwnAlpha?: "leave --alpha out, it is for files that give no alpha"
        case .hasUnsettledAlpha(let noted)?: "say --alpha rank for the scale 1, which ComfyUI and diffusers take, or --alpha \(noted)"
        case .needsCollapsingWithBase?: "collapse the file first, with --base"
        case .needsCollapsingWithAlpha?: "collapse the file first, with --alpha"
        case .isInterleaved?: "convert it with --base first"
        case nil: nil
        }
    }
}

extension MergeError: HasRemedy {
    fileprivate var remedy: String? {
        switch cause {
        case .otherBaseNamed?: "if they are the same weights, say so with --any-base"
        case .otherWeights?: "name that model, or insist with --any-base"
        case .needsComponent?: "say it with --component"
        case .bringsTokenizer?: "keep the base's tokenizer with --base-tokenizer"
        case .givenTwice?: "give it once with the sum of the weights, or say with --again that both are meant"
        case .alreadyMerged?: "if it is to be in it twice, say so with --again"
        case .notInReceipt?: "if it was merged all the same, say so with --any-adapter"
        case .otherWeight(let weight)?: "name it as \(path):\(weight)"
        case .tooLargeForType?: "choose --dtype f32 or a smaller weight"
        case .tooLargeToConvert?: "choose --dtype f32"
        case .noHashes?: "merge with --hash, or verify with --base and --adapter"
        case nil: nil
        }
    }
}

extension TrainingError: HasRemedy {
    fileprivate var remedy: String? {
        switch code {
        case .otherBase: "name that model with --base"
        case .otherData: "continue with the same --data"
        case .otherEvaluationData: "give the same --eval-data"
        case .otherSteps:
            "leave --steps and --epochs out, or start a new run (one with --schedule constant --warmup-ratio 0 can go on to any number)"
        case .tooLittleData: "give more text with --data or choose a shorter --seq-len"
        case .tooLittleEvaluationData: "give more text with --eval-data or choose a shorter --seq-len"
        case .diverged: "start again with a smaller --lr or more --warmup-ratio"
        default: nil
        }
    }
}

extension TrainingConfiguration.Setting {
    /// The option that sets it.
    var option: String {
        switch self {
        case .rank: "--rank"
        case .alpha: "--alpha"
        case .width: "--width"
        case .embedding: "--embedding"
        case .zStd: "--z-std"
        case .w1Gain: "--w1-gain"
        case .w2Gain: "--w2-gain"
        case .hiddenBias: "--hidden-bias"
        case .targets: "--targets"
        case .steps: "--steps"
        case .batchSize: "--batch-size"
        case .sequenceLength: "--seq-len"
        case .gradientAccumulation: "--grad-accumulation"
        case .learningRate: "--lr"
        case .warmupRatio: "--warmup-ratio"
        case .beta1: "--beta1"
        case .beta2: "--beta2"
        case .epsilon: "--epsilon"
        case .weightDecay: "--weight-decay"
        case .maxGradientNorm: "--max-grad-norm"
        case .dropout: "--dropout"
        case .seed: "--seed"
        case .evaluationInterval: "--eval-every"
        }
    }
}
