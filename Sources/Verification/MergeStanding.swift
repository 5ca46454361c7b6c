public import Kernels

/// How the elements of an adapted weight came to be, as far as their bits tell.
public enum MergeStanding: Sendable, Equatable {
    /// Each is the correctly rounded one.
    case exact
    /// Each is what this way of merging gives.
    case replayed(MergeRecipe)
    /// No known way gives all of them, but none is further off than roundings take it, and what they leave of the update is as much
    /// as the correctly rounded ones leave.
    case withinRounding
    /// Rounding erased the update, or leaves too little of it to tell.
    case inconclusive
    case wrong
}

extension MergeStanding {
    /// One word, for programs.
    public var name: String {
        switch self {
        case .exact: "exact"
        case .replayed: "replayed"
        case .withinRounding: "withinRounding"
        case .inconclusive: "inconclusive"
        case .wrong: "wrong"
        }
    }

    public var recipe: MergeRecipe? {
        guard case .replayed(let recipe) = self else { return nil }
        return recipe
    }

    /// A few words, for people.
    public var description: String {
        switch self {
        case .exact: "every element correctly rounded"
        case .replayed(let recipe): "as merged with the \(recipe.name)"
        case .withinRounding: "within what rounding explains"
        case .inconclusive: "inconclusive"
        case .wrong: "wrong"
        }
    }

    /// The worse of two: of the parts of one module.
    func worse(_ other: MergeStanding) -> MergeStanding { other.severity > severity ? other : self }

    /// How far it is from what the definition gives: 0 for exact, more for worse.
    public var severity: Int {
        switch self {
        case .exact: 0
        case .replayed: 1
        case .withinRounding: 2
        case .inconclusive: 3
        case .wrong: 4
        }
    }
}

extension MergeRecipe {
    /// What it is called in reports.
    public var name: String {
        switch self {
        case .plain: "update in F32"
        case .updateInBF16: "update in BF16"
        case .updateInF16: "update in F16"
        case .productInBF16: "product in BF16"
        case .productInF16: "product in F16"
        }
    }

    var sentence: String {
        switch self {
        case .plain: "a sum in F32, then rounded,"
        case .updateInBF16: "an update rounded to BF16"
        case .updateInF16: "an update rounded to F16"
        case .productInBF16: "a product and an update rounded to BF16"
        case .productInF16: "a product and an update rounded to F16"
        }
    }
}
