/// Why a file or folder cannot be inspected or compared.
public struct InspectionError: Error, Sendable, Equatable {
    public enum Code: String, Sendable {
        /// A pack holds differences to a model that was not given.
        case differencesWithoutBase
        /// `config.json` is not JSON.
        case invalidConfiguration
    }

    public let code: Code
    public let path: String
    public let message: String

    package init(_ code: Code, path: String, _ message: String) { (self.code, self.path, self.message) = (code, path, message) }
}

extension InspectionError: CustomStringConvertible {
    public var description: String { "\(path): \(message)" }
}
