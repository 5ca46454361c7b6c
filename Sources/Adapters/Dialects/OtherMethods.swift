internal import Methods
internal import OrderedCollections
internal import Safetensors

/// Methods of training whose tensors are known by their names, and not supported.
enum OtherMethods {
    /// What the last parts of the names of tensors begin with, and the method.
    private static let parts: [(part: String, method: String)] = [
        ("oft_", "OFT"), ("boft_", "BOFT"), ("a1.", "GLoRA"), ("a2.", "GLoRA"), ("b1.", "GLoRA"),
        ("b2.", "GLoRA"), ("w_norm", "trained norms"), ("b_norm", "trained norms"), ("on_input", "IA³"),
        ("bias_", "sparse biases"), ("set_weight", "whole weights"), ("reshape_weight", "grown weights"), ("ia3_", "IA³"),
    ]
    private static let differences: Set<Substring> = ["diff", "diff_b"]

    /// The error that names the method to which a tensor belongs; `nil` where no method is known by such a name.
    static func refusal(of name: String, path: String) -> AdapterError? {
        func refuse(_ what: String) -> AdapterError {
            AdapterError(.unsupportedFeature, path: path, subject: name, "\(what), only LoRA and LoCon")
        }
        if let claim = UpdateMethods.claim(name) {
            return AdapterError(
                .unsupportedFeature, path: path, subject: name,
                "it is of \(claim.method.name), which is read from folders of PEFT and from files of kohya's layout, and this is neither")
        }
        let components = name.split(separator: ".")
        if let last = components.last, differences.contains(last) {
            let (what, of) = last == "diff" ? ("weight", "a whole difference") : ("bias", "a whole difference")
            return refuse("it is \(of) of a \(what), to be added to the base's, which is not supported")
        }
        for place in components.indices.dropFirst() {
            let rest = components[place...].joined(separator: ".")
            if components.count - place <= 2, let other = parts.first(where: { rest.hasPrefix($0.part) }) {
                return refuse("it is of \(other.method), which is not supported")
            }
        }
        return nil
    }

    /// The error for the first tensor of a file that is of another method.
    static func refusal(of file: SafetensorsFile) -> AdapterError? {
        for name in file.tensors.keys { if let error = refusal(of: name, path: file.path) { return error } }
        return nil
    }
}
