internal import JSON
internal import Kernels
internal import OrderedCollections

/// Base + adapter and the merged model, held against each other by what they say: a second opinion beside the weights.
///
/// Both run through the same forward pass in F32, so what differs comes from the weights alone: from rounding them, and from whatever
/// else is not as it should be.
public struct FunctionComparison: Sendable {
    /// What one prompt gave, token by token.
    public struct Prompt: Sendable {
        public let tokens: Int
        /// The largest difference of a logit.
        public let maxLogitDifference: Double
        /// KL(base + adapter ‖ merged) at each token, in nats.
        public let divergences: [Double]
        /// The tokens after which the most likely next one is another.
        public let disagreements: [Int]
    }

    /// How far two models are apart, over all tokens.
    public struct Distance: Sendable {
        public let maxLogitDifference: Double
        /// In nats a token.
        public let meanKL: Double
        /// The share of tokens after which both find the same next token most likely, 0 to 1.
        public let argmaxAgreement: Double

        init(_ differences: [[LogitDifference]]) {
            let all = differences.flatMap { $0 }
            maxLogitDifference = all.map(\.largest).max() ?? 0
            meanKL = all.reduce(0) { $0 + $1.divergence } / Double(max(1, all.count))
            argmaxAgreement = Double(all.count(where: \.agrees)) / Double(max(1, all.count))
        }
    }

    public let prompts: [Prompt]
    /// The merged model from base + adapter.
    public let merged: Distance
    /// The base alone from base + adapter: how much there is to be lost; `nil` where the adapter brings another vocabulary.
    public let base: Distance?

    /// Whether a logit was infinite or NaN.
    public var isFinite: Bool { merged.maxLogitDifference.isFinite && base?.maxLogitDifference.isFinite ?? true }

    init(merged differences: [[LogitDifference]], base: [[LogitDifference]]?) {
        prompts = differences.map { tokens in
            Prompt(
                tokens: tokens.count, maxLogitDifference: tokens.map(\.largest).max() ?? 0, divergences: tokens.map(\.divergence),
                disagreements: tokens.indices.filter { !tokens[$0].agrees })
        }
        merged = Distance(differences)
        self.base = base.map { Distance($0) }
    }
}

extension FunctionComparison.Distance {
    fileprivate var members: [(String, JSONValue)] {
        [
            ("maxLogitDifference", Self.number(maxLogitDifference)), ("meanKL", Self.number(meanKL)), ("argmaxAgreement", .real(argmaxAgreement)),
        ]
    }

    fileprivate static func number(_ value: Double) -> JSONValue { value.isFinite ? .real(value) : .null }
}

extension FunctionComparison {
    /// The member `prompts` of the report.
    var json: JSONValue {
        let list = prompts.map { prompt -> JSONValue in
            [
                "tokens": .integer(prompt.tokens), "maxLogitDifference": Distance.number(prompt.maxLogitDifference),
                "kl": .array(prompt.divergences.map(Distance.number)), "disagreements": .array(prompt.disagreements.map { .integer($0) }),
            ]
        }
        return .object(
            .init(
                uniqueKeysWithValues: merged.members + [
                    ("tokens", .integer(prompts.reduce(0) { $0 + $1.tokens })),
                    ("base", base.map { .object(.init(uniqueKeysWithValues: $0.members)) } ?? .null),
                    ("prompts", .array(list)),
                ]))
    }
}
