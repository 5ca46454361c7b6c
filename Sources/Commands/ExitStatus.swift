internal import Adapters
internal import FileIO
internal import GGUF
internal import Inspection
internal import JSON
internal import LanguageModel
internal import NativeCheckpoint
internal import Packing
internal import Safetensors
internal import Tokenizer
internal import Training

/// The exit codes that scripts rely on: one mistake has one code, whichever command meets it.
enum ExitStatus: Int32 {
    case done = 0
    case checkFailed = 1
    case undecided = 3
    /// Arguments that are wrong by themselves, or contradict each other or the run that is to go on.
    case usage = 64
    /// Something is there and is not what it should be, or not read here, or does not fit the rest.
    case malformedInput = 65
    /// Nothing is at a path, or a folder does not hold what it should.
    case missingInput = 66
    case defect = 70
    case cannotCreateOutput = 73
    case inputOutput = 74
    case interrupted = 130

    /// The exit code of an error that a command threw; `nil` for those of the argument parser, which knows its own.
    init?(of error: any Error) {
        switch error {
        case let verdict as Verdict: self = verdict.status
        case let error as FileError: self = Self.status(of: error)
        case let error as CheckpointError: self = error.fileError.map(Self.status(of:)) ?? .malformedInput
        case let error as TrainingError:
            switch error.code {
            case .invalidOption, .noTargets, .otherBase, .otherData, .otherEvaluationData, .otherSteps: self = .usage
            case .diverged: self = .checkFailed
            case .interrupted: self = .interrupted
            case .system: self = .inputOutput
            default: self = .malformedInput
            }
        case let error as TransformerError: self = error.code == .sequenceTooLong ? .usage : .malformedInput
        case let error as SafetensorsError: self = [.noWeights, .missingShard].contains(error.code) ? .missingInput : .malformedInput
        case let error as TokenizerError: self = error.fileError.map(Self.status(of:)) ?? .malformedInput
        case is JSONError, is GGUFError: self = .malformedInput
        case let error as AdapterError: self = error.code == .missingFile ? .missingInput : .malformedInput
        case let error as MergeError:
            switch error.code {
            case .outputIsInput: self = .cannotCreateOutput
            case .interrupted: self = .interrupted
            case .nothingToMerge, .givenTwice: self = .usage
            case .survivalTooLow: self = .checkFailed
            default: self = .malformedInput
            }
        case let error as PackError:
            switch error {
            case .interrupted: self = .interrupted
            default: self = .malformedInput
            }
        case let error as InspectionError: self = error.code == .differencesWithoutBase ? .usage : .malformedInput
        case let error as UsageError: self = error.status
        default: return nil
        }
    }

    static func status(of error: FileError) -> ExitStatus {
        switch error {
        case .missing: .missingInput
        case .wrongKind, .tooLarge, .excessive, .truncated: .malformedInput
        case .exists, .irreplaceable, .cannotCreate: .cannotCreateOutput
        case .system: .inputOutput
        }
    }
}

/// A check that was carried out and did not hold; the command has printed why.
struct Verdict: Error {
    let status: ExitStatus
}

/// A combination of arguments that makes no sense.
struct UsageError: Error, CustomStringConvertible {
    let description: String
    var status: ExitStatus = .usage

    init(_ description: String, status: ExitStatus = .usage) {
        self.description = description
        self.status = status
    }
}
