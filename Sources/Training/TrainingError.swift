/// Why a training run cannot start, go on, or continue.
public struct TrainingError: Error, Sendable, Equatable {
    public enum Code: String, Sendable {
        case invalidOption, noTargets, emptyData, invalidData, tokenOutOfRange, diverged, invalidCheckpoint, otherBase, otherData, interrupted, system
    }

    public let code: Code
    public let message: String

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }
}

extension TrainingError: CustomStringConvertible {
    public var description: String { message }
}
