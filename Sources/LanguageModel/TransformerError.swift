/// Why a model cannot be run.
public struct TransformerError: Error, Sendable, Equatable {
    public enum Code: String, Sendable {
        case invalidConfiguration, unknownArchitecture, unsupportedFeature, missingTensor, wrongShape, unsupportedDType, notFinite,
            tokenOutOfRange, sequenceTooLong
    }

    public let code: Code
    public let path: String
    public let tensor: String?
    public let message: String

    public init(_ code: Code, path: String, tensor: String? = nil, _ message: String) {
        self.code = code
        self.path = path
        self.tensor = tensor
        self.message = message
    }
}

extension TransformerError: CustomStringConvertible {
    public var description: String { tensor.map { "\(path), tensor \($0): \(message)" } ?? "\(path): \(message)" }
}
