/// Why a training run cannot start, go on, or continue.
public struct TrainingError: Error, Sendable, Equatable {
    public enum Code: String, Sendable {
        case invalidOption, noTargets, emptyData, tooLittleData, tooLittleEvaluationData, invalidData, tokenOutOfRange, diverged, invalidCheckpoint,
            otherBase, otherData, otherEvaluationData, otherSteps, interrupted, system
    }

    public let code: Code
    /// The setting that is at fault, which the message then says the rest of.
    public let setting: TrainingConfiguration.Setting?
    public let message: String

    public init(_ code: Code, setting: TrainingConfiguration.Setting? = nil, _ message: String) {
        self.code = code
        self.setting = setting
        self.message = message
    }
}

extension TrainingError: CustomStringConvertible {
    public var description: String { setting.map { "\($0.rawValue) \(message)" } ?? message }
}
