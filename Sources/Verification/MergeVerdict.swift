public import Adapters
public import JSON

/// What the verification of a merged model found.
public struct MergeVerdict: Sendable {
    public enum Outcome: String, Sendable {
        case pass, fail
        /// Nothing is wrong, and the files cannot tell whether all is right.
        case inconclusive
    }

    /// One adapted weight, measured. ΔW is the update in binary64, W the base's weight and W′ the merged one.
    public struct Module: Sendable {
        public let path: ModulePath
        public let standing: MergeStanding
        public let elements: Int
        /// ⟨ΔW, W′ − W⟩ / ‖ΔW‖²: 1 for the update as it should be, 0 for none, −1 for one that was subtracted. `nil` for an
        /// update that is zero.
        public let projection: Double?
        /// ‖W′ − W − ΔW‖ / ‖ΔW‖. `nil` for an update that is zero.
        public let relativeResidual: Double?
        /// The largest distance of an element from the correctly rounded one, in steps of the stored type.
        public let maxUlp: Int
        /// The projection that the correctly rounded weight has: how much of the update the stored type can hold. `nil` for
        /// an update that is zero.
        public let survival: Double?
        /// Elements that are not the correctly rounded ones.
        public let differingElements: Int
        /// How many elements are 0, 1, 2, 3–4, 5–8 … steps from the correctly rounded one.
        public let histogram: [Int]

        public var differingShare: Double { elements > 0 ? Double(differingElements) / Double(elements) : 0 }
    }

    public struct Coverage: Sendable, Equatable {
        /// Modules of an adapter that the base does not hold.
        public var adapterUnused: [String] = []
        public var baseChangedWithoutAdapter: [String] = []
        /// Tensors of the base that the merged model does not hold.
        public var missing: [String] = []
        /// Tensors of the merged model that the base does not hold.
        public var extra: [String] = []

        public init() {}
    }

    /// What is wrong, the most telling first.
    public internal(set) var faults: [Fault]
    /// Why modules cannot be decided.
    public let doubts: [Fault]
    public let modules: [Module]
    public let coverage: Coverage

    public var outcome: Outcome { !faults.isEmpty ? .fail : !doubts.isEmpty ? .inconclusive : .pass }
    public var passes: Bool { outcome == .pass }

    /// One sentence for people.
    public var summary: String {
        switch outcome {
        case .fail:
            return "fail: \(count(faults.count, "fault")) in \(count(modules.count, "module"))"
        case .inconclusive:
            return
                "inconclusive: rounding erased the update of \(doubts.count) of \(count(modules.count, "module")), so merged and not merged look the same there"
        case .pass:
            var ways: [(name: String, modules: Int)] = []
            for module in modules {
                let name = module.standing.description
                if let known = ways.firstIndex(where: { $0.name == name }) { ways[known].modules += 1 } else { ways.append((name, 1)) }
            }
            let how = ways.sorted { $0.modules > $1.modules }.map { ways.count == 1 ? $0.name : "\($0.modules) \($0.name)" }
            return
                "pass: \(count(modules.count, "module")) \(modules.count == 1 ? "is" : "are") base + adapter, \(how.isEmpty ? "with nothing to change" : how.joined(separator: ", ")); every other tensor is the base's"
        }
    }

    private func count(_ number: Int, _ noun: String) -> String { "\(number) \(noun)\(number == 1 ? "" : "s")" }

    /// The report that `oplora verify --json` prints.
    public var json: JSONValue {
        func number(_ value: Double?) -> JSONValue { value.map { .real($0) } ?? .null }
        func names(_ list: [String]) -> JSONValue { .array(list.map { .string($0) }) }
        return [
            "schema": "oplora.verify/1",
            "verdict": .string(outcome.rawValue),
            "faults": .array(faults.map(\.json)),
            "doubts": .array(doubts.map(\.json)),
            "modules": .array(
                modules.map { module in
                    [
                        "module": .string(module.path.text), "standing": .string(module.standing.name),
                        "recipe": module.standing.recipe.map { .string($0.name) } ?? .null, "projection": number(module.projection),
                        "relativeResidual": number(module.relativeResidual), "maxUlp": .integer(module.maxUlp),
                        "survival": number(module.survival), "elements": .integer(module.elements),
                        "differingElements": .integer(module.differingElements), "steps": .array(module.histogram.map { .integer($0) }),
                    ]
                }),
            "coverage": [
                "adapterUnused": names(coverage.adapterUnused),
                "baseChangedWithoutAdapter": names(coverage.baseChangedWithoutAdapter), "missing": names(coverage.missing),
                "extra": names(coverage.extra),
            ],
        ]
    }
}
