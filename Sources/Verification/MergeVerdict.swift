public import Adapters
public import JSON
internal import OrderedCollections

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
        /// The rows of the weight that are furthest off, the worst first; empty where none is, or where they have not been looked at.
        public internal(set) var worstRows: [Row] = []
        /// How many steps of the stored type double a number. Beyond that, or across zero, a count of steps says nothing.
        let stepsToDouble: Int

        /// `maxUlp`, where it says how far off an element is.
        public var meaningfulUlp: Int? { meaningful(maxUlp) }

        /// A count of steps, where it says how far off an element is.
        public func meaningful(_ steps: Int) -> Int? { steps <= stepsToDouble ? steps : nil }

        public var differingShare: Double { elements > 0 ? Double(differingElements) / Double(elements) : 0 }
    }

    /// A row of a weight, measured like a module.
    public struct Row: Sendable {
        /// Its number in the stored tensor.
        public let row: Int
        public let differingElements: Int
        public let maxUlp: Int
        public let relativeResidual: Double?
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
    public private(set) var doubts: [Fault]
    public internal(set) var modules: [Module]
    public let coverage: Coverage
    /// What somebody who reads the verdict should know, each one sentence.
    public internal(set) var remarks: [String] = []
    /// The element type into which the merge was to convert, as its receipt has it, where none was asked for and others are not the base's.
    public internal(set) var typeOfReceipt: String?
    /// What both models say to some prompts, if that was asked for.
    public private(set) var function: FunctionComparison?

    /// The modules, the worst first: by their standing, then by how far they are off, then by how little of the update is left.
    public var worstFirst: [Module] {
        modules.sorted { a, b in
            func off(_ module: Module) -> Double {
                module.standing == .wrong ? module.relativeResidual ?? Double(module.maxUlp) : Double(module.maxUlp)
            }
            return (b.standing.severity, off(b), a.survival ?? 1, a.path) < (a.standing.severity, off(a), b.survival ?? 1, b.path)
        }
    }

    /// Adds what both models say, and what is wrong with it.
    ///
    /// - Parameter minArgmaxAgreement: the least share of tokens after which both must find the same next token most likely.
    public mutating func add(_ function: FunctionComparison, minArgmaxAgreement: Double? = nil) {
        self.function = function
        guard function.isFinite else {
            faults.append(Fault(.notFinite, Self.promptsSubject, "logits are infinite or NaN"))
            return
        }
        if let minArgmaxAgreement, function.merged.argmaxAgreement < minArgmaxAgreement {
            faults.append(
                Fault(
                    .gate, Self.promptsSubject,
                    "the most likely next token is the same after \(FaultSearch.text(100 * function.merged.argmaxAgreement))% of the tokens",
                    cause: .minArgmaxAgreement(minArgmaxAgreement)))
        }
    }

    /// Adds to what is wrong or undecided what to do about it, for all reports alike.
    ///
    /// - Parameter remedy: a clause on what to do about a fault; `nil` where there is nothing to say.
    public mutating func add(remedies remedy: (Fault) -> String?) {
        for number in faults.indices { faults[number].add(remedy) }
        for number in doubts.indices { doubts[number].add(remedy) }
    }

    /// Adds what somebody who reads the verdict should know, one sentence.
    public mutating func add(remark: String) { remarks.append(remark) }

    /// Says that the merged model does not run, and why.
    public mutating func addNotRunnable(_ why: String) { faults.append(Fault(.notRunnable, Self.promptsSubject, why)) }

    /// What reports call the prompts, which are no module.
    static let promptsSubject = "prompts"

    public var outcome: Outcome { !faults.isEmpty ? .fail : !doubts.isEmpty ? .inconclusive : .pass }
    public var passes: Bool { outcome == .pass }

    /// One sentence for people.
    public var summary: String {
        switch outcome {
        case .fail:
            return "fail: \(count(faults.count, "fault"))" + (modules.isEmpty ? "" : " in \(count(modules.count, "module"))")
        case .inconclusive where doubts.contains { $0.code == .quantizedBase }:
            return "inconclusive: the base is quantized, and what was merged into it cannot be told from it"
        case .inconclusive where doubts.allSatisfy { $0.code == .unknownName }:
            return
                "inconclusive: the models are in two layouts, and for \(count(doubts.count, "tensor")) it is not known what the other layout calls \(doubts.count == 1 ? "it" : "them"); all others are right"
        case .inconclusive:
            return
                "inconclusive: rounding erased the update of \(doubts.count { $0.code != .unknownName }) of \(count(modules.count, "module")), so merged and not merged look the same there"
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
        func names(_ list: [String]) -> JSONValue { .array(list.map { .string($0) }) }
        var report: OrderedDictionary<String, JSONValue> = [
            "schema": "oplora.verify/1",
            "verdict": .string(outcome.rawValue),
            "diagnosis": .string(diagnosis),
            "remarks": names(remarks),
            "faults": .array(faults.map(\.json)),
            "doubts": .array(doubts.map(\.json)),
            "modules": .array(modules.map(\.json)),
            "coverage": [
                "adapterUnused": names(coverage.adapterUnused),
                "baseChangedWithoutAdapter": names(coverage.baseChangedWithoutAdapter), "missing": names(coverage.missing),
                "extra": names(coverage.extra),
            ],
        ]
        report["prompts"] = function?.json
        return .object(report)
    }
}

extension MergeVerdict.Module {
    fileprivate var json: JSONValue {
        [
            "module": .string(path.text), "standing": .string(standing.name), "recipe": standing.recipe.map { .string($0.name) } ?? .null,
            "projection": Self.number(projection), "relativeResidual": Self.number(relativeResidual), "maxUlp": .integer(maxUlp),
            "survival": Self.number(survival), "elements": .integer(elements), "differingElements": .integer(differingElements),
            "steps": .array(histogram.map { .integer($0) }),
            "worstRows": .array(
                worstRows.map {
                    [
                        "row": .integer($0.row), "differingElements": .integer($0.differingElements), "maxUlp": .integer($0.maxUlp),
                        "relativeResidual": Self.number($0.relativeResidual),
                    ]
                }),
        ]
    }

    private static func number(_ value: Double?) -> JSONValue { value.map { .real($0) } ?? .null }
}
