internal import Adapters
internal import FileIO
internal import Kernels
internal import Safetensors
public import Tensors
internal import Weights

/// What measuring a work says of it.
struct WorkJudgement {
    let standing: MergeStanding
    /// What is wrong; of `inconclusive` why.
    let fault: Fault?

    /// An update of which rounding leaves less is not in the weight in any sense that matters, however exactly it was merged.
    private static let leastSurvival = 0.01

    /// - Parameter recipes: those that the work was held against.
    init(_ work: MergeWork, _ tally: VerificationTally, recipes: MergeWork.Recipes) {
        let share = "\(tally.differing) of \(work.elementCount) elements are not the correctly rounded ones"
        func wrong(_ code: Fault.Code, _ message: String) -> WorkJudgement { .init(.wrong, Fault(code, work.label, message)) }
        if let index = tally.firstNotFinite {
            self = wrong(
                .notFinite, "\(tally.notFinite) of \(work.elementCount) elements are infinite or NaN; the first is element \(work.place(index))"
            )
            return
        }
        if tally.updateSquared > 0, tally.beyond == 0, tally.updateTimesExpected < Self.leastSurvival * tally.updateSquared {
            self.init(
                .inconclusive,
                Fault(
                    .roundedAway, work.label,
                    "in \(work.merged.dtype) rounding leaves \(FaultSearch.text(100 * tally.updateTimesExpected / tally.updateSquared))% of the update, so merged and not merged look the same; merge into a wider type"
                ))
            return
        }
        guard tally.differing > 0 else {
            self.init(.exact, nil)
            return
        }
        if work.updates.isEmpty {
            self = wrong(work.isReplaced ? .wrongReplacement : .baseChangedWithoutAdapter, share + work.example(tally))
            return
        }
        if !tally.isChanged {
            self = wrong(.notMerged, "the weight is the base's, the update is not in it")
            return
        }
        let recipes = work.recipes(recipes).sorted { $0.rawValue < $1.rawValue }.map { (recipe: $0, unexplained: tally.unexplained(by: $0)) }
        guard let best = recipes.min(by: { $0.unexplained.count < $1.unexplained.count }) else {
            self = wrong(.wrongUpdate, share)
            return
        }
        // In F32 a sum in binary32 may give any of several numbers, and a changed element may be one of them. But another order of
        // summation would have moved at least one in a thousand of the elements that it can move.
        let canMove = tally.ambiguousShare * Double(work.elementCount)
        let isOtherwiseExact =
            work.merged.dtype == .f32 && work.updates.allSatisfy { $0.magnitude == nil } && Double(tally.differing) < 0.001 * canMove
        if best.unexplained.count == 0, !isOtherwiseExact {
            self.init(.replayed(best.recipe), nil)
            return
        }
        let few = Self.few(work)
        if isOtherwiseExact || tally.differing <= few || best.unexplained.count <= few {
            let isDefinition = isOtherwiseExact || tally.differing <= best.unexplained.count
            self = wrong(
                .elementsDiffer,
                isDefinition
                    ? share + work.example(tally)
                    : "\(best.unexplained.count) of \(work.elementCount) elements are not what \(best.recipe.sentence) gives, which explains all others; the first is element \(work.place(best.unexplained.first ?? 0)), \(work.stored(best.unexplained.first ?? 0))"
            )
            return
        }
        // What the roundings that the bound allows may do to the sum, were each as large as it can be and of either sign: eight standard
        // deviations.
        let noise = 8 * tally.noiseSquared.squareRoot()
        if tally.beyond == 0, (tally.updateTimesChange - tally.updateTimesExpected).magnitude <= noise {
            guard noise <= 0.005 * tally.updateSquared else {
                self.init(
                    .inconclusive,
                    Fault(
                        .roundedAway, work.label,
                        "in \(work.merged.dtype) rounding leaves so little of the update that a wrong one would look the same, and no known way of merging gives these bits"
                    ))
                return
            }
            self.init(.withinRounding, nil)
            return
        }
        self.init(.wrong, nil)
    }

    /// As many elements as may be a damage that leaves the rest to be explained.
    static func few(_ work: MergeWork) -> Int { max(8, work.elementCount / 1000) }

    private init(_ standing: MergeStanding, _ fault: Fault?) {
        self.standing = standing
        self.fault = fault
    }
}

extension MergeWork {
    /// The place in the merged model's tensor of an element of the base's.
    func place(_ index: Int) -> String {
        let (shape, index) = (merged.shape, index + shift)
        return shape.count == 2 ? "[\(index / shape[1]),\(index % shape[1])]" : "\(index)"
    }

    func stored(_ index: Int) -> String {
        "\(StoredElement.value(merged, index + shift)) where the \(isReplaced ? "adapter" : "base") has \(StoredElement.value(source, sourceIndex(index)))"
    }

    /// The place in the source of an element of the merged tensor.
    func sourceIndex(_ index: Int) -> Int { index + ((replacement ?? rows.lowerBound) - rows.lowerBound) * columns }

    func example(_ tally: VerificationTally) -> String {
        guard let index = tally.firstDiffering else { return "" }
        let distance = tally.largestSteps <= merged.dtype.stepsToDouble ? ", at most \(tally.largestSteps) ulp off" : ""
        return "; the first is element \(place(index)), \(stored(index))\(distance)"
    }
}

extension DType {
    /// How many steps from a number to its double. A distance of more steps, or one across zero, is better told by the numbers.
    public var stepsToDouble: Int {
        switch self {
        case .bf16: 1 << 7
        case .f16: 1 << 10
        case .f32: 1 << 23
        default: 1 << 52
        }
    }
}

/// An element of one of the types that are merged.
enum StoredElement {
    static func value(_ bytes: RawSpan, _ dtype: DType, _ index: Int) -> Double {
        // Sound: the callers have the elements, and every bit pattern is a number.
        switch dtype {
        case .bf16: StoredBF16.value(of: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 2 * index, as: UInt16.self))
        case .f16: StoredF16.value(of: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 2 * index, as: UInt16.self))
        case .f32: StoredF32.value(of: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 4 * index, as: UInt32.self))
        default: StoredF64.value(of: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 8 * index, as: UInt64.self))
        }
    }

    /// NaN where it cannot be read any more.
    static func value(_ weight: StoredWeight, _ index: Int) -> Double {
        if let range = weight.plainRange {
            let file = weight.file
            return value(file.bytes(in: range), weight.dtype, index)
        }
        var bytes: [UInt8] = []
        guard (try? weight.read(bytes: weight.bytes(of: index..<index + 1), into: &bytes)) != nil else { return .nan }
        // Sound: every bit pattern of a byte may be read as a raw byte.
        return value(unsafe bytes.span.bytes, weight.dtype, 0)
    }
}
