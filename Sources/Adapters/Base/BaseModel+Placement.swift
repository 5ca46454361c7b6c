internal import Families
internal import JSON
internal import Safetensors
internal import Tensors
internal import Weights

extension BaseModel {
    /// One module on its way to the tensors of the model.
    struct Placement {
        let model: BaseModel
        let module: AdapterModule
        let scale: Double
        let adapter: String
        let replaced: [String: StoredWeight]

        func weightUpdates() throws(MergeError) -> [TensorUpdate] {
            let places = model.places(of: module)
            let b = try model.straightened(module, adapter: adapter)
            guard places.count > 1 else {
                let (name, weight) = try model.tensor(places.first?.tensor ?? module.parameterName, adapter: adapter, replaced: replaced)
                if places.first?.relation == .exchanged {
                    guard let exchanged = module.withHalvesExchanged else { throw misfit(name, weight.shape) }
                    let placement = Placement(model: model, module: exchanged, scale: scale, adapter: adapter, replaced: replaced)
                    return [try placement.update(of: name, shape: weight.shape, b: exchanged.loraB)]
                }
                guard case .contains(let number)? = places.first?.relation else { return [try update(of: name, shape: weight.shape, b: b)] }
                return [try update(ofPart: number, of: name, shape: weight.shape, b: b)]
            }
            guard module.bias == nil else {
                throw MergeError(
                    .unsupportedCombination, path: adapter, tensor: module.parameterName,
                    "the B of a module that is several matrices of the base has a bias (lora_bias), which cannot be cut")
            }
            // The module is several matrices of the model, one below the other.
            var updates: [TensorUpdate] = []
            var row = 0
            for place in places {
                let (name, weight) = try model.tensor(place.tensor, adapter: adapter, replaced: replaced)
                guard module.magnitude == nil, module.kind == .linear, weight.shape.count == 2, weight.shape[1] == module.inputs,
                    weight.shape[0] <= b.rows - row
                else { throw misfit(name, weight.shape) }
                updates.append(
                    TensorUpdate(
                        tensor: name, module: module.label, rows: 0..<weight.shape[0], left: b.rows(from: row, count: weight.shape[0]),
                        right: module.loraA, scale: scale, magnitude: nil, bIsRight: false, adapterPath: adapter))
                row += weight.shape[0]
            }
            guard row == b.rows else { throw misfit(places[0].tensor, [row, module.inputs]) }
            return updates
        }

        private func misfit(_ name: String, _ shape: [Int]) -> MergeError {
            MergeError(
                .shapeMismatch, path: adapter, tensor: name,
                "B \(describe(shape: module.loraB.shape)) times A \(describe(shape: module.loraA.shape)) is an update of "
                    + "\(describe(shape: [module.outputs, module.inputs])) and the weight is \(describe(shape: shape)); the adapter was made for a model of other sizes"
            )
        }

        /// The update of rows of a matrix in which the module lies with others, each but the last with as many outputs as inputs.
        private func update(ofPart number: Int, of name: String, shape: [Int], b: FactorMatrix) throws(MergeError) -> TensorUpdate {
            let first = number * module.inputs
            guard module.magnitude == nil, module.kind == .linear, shape.count == 2, shape[1] == module.inputs, first + b.rows <= shape[0] else {
                throw misfit(name, shape)
            }
            return TensorUpdate(
                tensor: name, module: module.label, rows: first..<first + b.rows, left: b, right: module.loraA, scale: scale, magnitude: nil,
                bIsRight: false, adapterPath: adapter)
        }

        private func update(of name: String, shape: [Int], b: FactorMatrix) throws(MergeError) -> TensorUpdate {
            let isTransposed = model.storesTransposed(module, shape: shape)
            let inputs = shape.count < 2 ? 0 : isTransposed ? shape[0] : shape[1]
            let a = module.sharesInputs && inputs <= module.inputs ? module.loraA.columns(from: 0, count: inputs) : module.loraA
            let left = isTransposed ? a.transposed : b
            let right = isTransposed ? b.transposed : a
            // A convolution over single points is a linear layer, and either may be stored as the other.
            let isFitting =
                shape.count >= 2 && shape[0] == left.rows && shape.dropFirst().reduce(1, &*) == right.columns
                && (module.kind == .convolution || shape.dropFirst(2).allSatisfy { $0 == 1 })
            guard isFitting else {
                throw MergeError(
                    .shapeMismatch, path: adapter, tensor: name,
                    "B \(describe(shape: b.shape)) times A \(describe(shape: a.shape)) is an update of "
                        + "\(describe(shape: [left.rows, right.columns])) and the weight is \(describe(shape: shape)); the adapter was made for a model of other sizes"
                )
            }
            if let values = module.magnitude?.values, case .ofInputs = module.magnitude {
                guard values.columns == shape[isTransposed ? 0 : 1] else { throw misfit(name, shape) }
            }
            let magnitude: TensorUpdate.Magnitude? =
                switch module.magnitude {
                case .ofOutputs(let values)?: isTransposed ? .ofColumns(values) : .ofRows(values)
                case .ofInputs(let values)?: isTransposed ? .ofRows(values) : .ofColumns(values)
                case nil: nil
                }
            return TensorUpdate(
                tensor: name, module: module.label, rows: 0..<left.rows, left: left, right: right, scale: scale, magnitude: magnitude,
                bIsRight: isTransposed, adapterPath: adapter)
        }

        func biasUpdate(_ stored: FactorMatrix) throws(MergeError) -> TensorUpdate {
            let place = model.places(of: module).first
            let bias = place?.relation == .exchanged ? module.withHalvesExchanged?.bias ?? stored : stored
            let own = (place?.tensor).map { String($0.dropLast("weight".count)) + "bias" } ?? "\(module.place).bias"
            guard place == nil || replaced[own] != nil || model.source(of: own) != nil else {
                throw MergeError(
                    .moduleNotInBase, path: adapter, tensor: own,
                    "the adapter adds a bias (lora_bias) to a layer that has none, so that no weight can hold it; PEFT does not merge it either")
            }
            let (name, weight) = try model.tensor(own, adapter: adapter, replaced: replaced)
            guard weight.shape == [bias.columns] else {
                throw MergeError(
                    .shapeMismatch, path: adapter, tensor: name,
                    "the adapter's bias has \(bias.columns) elements and the module's is \(describe(shape: weight.shape)); the adapter was made for a model of other sizes"
                )
            }
            return TensorUpdate(
                tensor: name, module: module.label, rows: 0..<1, left: .one, right: bias, scale: scale, magnitude: nil, bIsRight: true,
                adapterPath: adapter)
        }
    }

    /// Whether the family stores the linear layer of this name as [in, out].
    func storesTransposed(_ module: ModulePath) -> Bool {
        family?.transposedModules.contains(String(module.lastComponent)) ?? false
    }

    /// Whether the weight of a module takes (B·A)ᵀ.
    ///
    /// PEFT's `fan_in_fan_out` does not decide it: it is one flag for all modules, and PEFT overrules it where it does not fit.
    func storesTransposed(_ module: AdapterModule, shape: [Int]) -> Bool {
        switch module.kind {
        case .embedding: return true
        case .convolution, .experts: return false
        case .linear, .transposedLinear:
            let isTransposed = storesTransposed(module.path) || module.kind == .transposedLinear
            // A shared A is as wide as the widest module's.
            return isTransposed && shape.count == 2 && shape[1] == module.outputs && (module.sharesInputs || shape[0] == module.inputs)
        }
    }
}
