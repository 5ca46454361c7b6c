internal import Methods

/// Why an adapter cannot be read, written or used.
public struct AdapterError: Error, Sendable, Equatable {
    /// One code for each way in which an adapter can be wrong; scripts may rely on the names.
    public enum Code: String, Sendable, CaseIterable {
        /// What is there is of no dialect that is read.
        case unknownDialect
        /// There is no adapter, or its configuration and its weights are not beside each other.
        case missingFile
        /// The configuration is not JSON, or a field of it has a wrong type.
        case invalidConfiguration
        /// A field of the configuration that changes the result asks for something that is not supported.
        case unsupportedFeature
        /// A pattern of the configuration is no regular expression.
        case invalidPattern
        /// A tensor that no part of the adapter claims.
        case unexpectedTensor
        /// One of the two factors of a module is missing.
        case missingFactor
        /// Factors whose shapes do not fit each other, or are no matrices.
        case invalidShape
        /// Factors in an element type that is not supported.
        case unsupportedDType
        /// The adapter has no module at all.
        case empty
        /// An alpha, a rank or a weight that gives no finite scale.
        case invalidScale
        /// An element of a factor is infinite or NaN.
        case notFinite
    }

    /// What else would have to be known, where whoever reads or writes the adapter can say it.
    public enum Cause: Sendable, Equatable {
        /// Only the base tells, and none was given.
        case needsBase
        /// Only the base tells, in the form that diffusers gives it.
        case needsBaseOfDiffusers
        /// Only the base tells of which of several families the modules are.
        case needsBaseForFamily
        /// Of which component of a pipeline the modules are, the base or whoever knows it tells.
        case needsBaseOrComponent
        /// Of which component of a pipeline the modules are, only somebody who knows it tells.
        case needsComponent
        /// There is room for one component, and the adapter has several.
        case hasSeveralComponents
        /// The layout is loaded for diffusion models, and the modules are a language model's.
        case isOfLanguageModel
        /// Nothing gives the alpha.
        case needsAlpha
        /// Two fields give two alphas.
        case hasSeveralAlphas
        /// The file gives another alpha than was asked for.
        case hasOwnAlpha
        /// An alpha was noted, and nothing says whether it is in the factors.
        case hasUnsettledAlpha(noted: String)
        /// Hypernetworks that become an adapter beside their base.
        case needsCollapsingWithBase
        /// Hypernetworks that become an adapter once their alpha is known.
        case needsCollapsingWithAlpha
        /// Rows are in an order that only the base can undo, and nothing of the base is at hand.
        case isInterleaved
    }

    public let code: Code
    public let path: String
    /// The tensor, module or field that is at fault.
    public let subject: String?
    public let message: String
    public let cause: Cause?

    public init(_ code: Code, path: String, subject: String? = nil, _ message: String, cause: Cause? = nil) {
        self.code = code
        self.path = path
        self.subject = subject
        self.message = message
        self.cause = cause
    }
}

extension AdapterError {
    /// What a method says of its tensors.
    init(_ fault: UpdateFault, path: String) {
        let code: Code =
            switch fault.code {
            case .missing: .missingFactor
            case .shape: .invalidShape
            case .notFinite: .notFinite
            }
        self.init(code, path: path, subject: fault.subject, fault.message)
    }
}

extension AdapterError: CustomStringConvertible {
    public var description: String {
        guard let subject else { return "\(path): \(message)" }
        return "\(path), \(subject): \(message)"
    }
}
