/// The names that experts have in files and in memory, in all families.
public enum ExpertNames {
    /// The matrices of one expert in files, for each parameter that holds those of all experts in memory. Several
    /// matrices lie one below the other in it.
    public static let matrices: [String: [[String]]] = [
        "gate_up_proj": [["gate_proj", "up_proj"], ["w1", "w3"], ["fc1", "fc3"]],
        "gate_proj": [["gate_proj"], ["w1"], ["fc1"]],
        "up_proj": [["up_proj"], ["w3"], ["fc3"]],
        "down_proj": [["down_proj"], ["w2"], ["fc2"]],
    ]

    /// The modules with one weight for all experts, in families without a parameter of their own for it (JetMoE).
    public static let modules: Set<Substring> = ["input_linear", "output_linear"]
}
