internal import Families
internal import JSON
internal import Methods
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
            let update = try model.straightened(module, adapter: adapter)
            guard places.count > 1 else {
                let (name, weight) = try model.tensor(places.first?.tensor ?? module.parameterName, adapter: adapter, replaced: replaced)
                switch places.first?.relation {
                case .exchanged?: return try exchanged(update, of: name, shape: weight.shape)
                case .contains(let number)?: return [try self.update(update, ofPart: number, of: name, shape: weight.shape)]
                default: return [try self.update(update, of: name, shape: weight.shape)]
                }
            }
            guard module.bias == nil, update.ofBias == nil else {
                throw MergeError(
                    .unsupportedCombination, path: adapter, tensor: module.parameterName,
                    "the B of a module that is several matrices of the base has a bias (lora_bias), which cannot be cut")
            }
            // The module is several matrices of the model, one below the other.
            var updates: [TensorUpdate] = []
            var row = 0
            for place in places {
                let (name, weight) = try model.tensor(place.tensor, adapter: adapter, replaced: replaced)
                guard module.magnitude == nil, module.kind == .linear, weight.shape.count == 2, weight.shape[1] == update.inputs,
                    weight.shape[0] <= update.outputs - row
                else { throw misfit(name, weight.shape) }
                updates.append(
                    TensorUpdate(
                        tensor: name, module: module.label, rows: 0..<weight.shape[0], update: update, from: row, scale: scale,
                        adapterPath: adapter))
                row += weight.shape[0]
            }
            guard row == update.outputs else { throw misfit(places[0].tensor, [row, update.inputs]) }
            return updates
        }

        /// The update of a matrix that has the two halves of the module's rows in the other order.
        private func exchanged(_ update: any UpdateMethod, of name: String, shape: [Int]) throws(MergeError) -> [TensorUpdate] {
            if update.lowRank != nil {
                guard let exchanged = module.withHalvesExchanged else { throw misfit(name, shape) }
                let placement = Placement(model: model, module: exchanged, scale: scale, adapter: adapter, replaced: replaced)
                return [try placement.update(exchanged.update, of: name, shape: shape)]
            }
            let half = update.outputs / 2
            guard module.magnitude == nil, module.kind == .linear, update.outputs % 2 == 0, shape == [update.outputs, update.inputs] else {
                throw misfit(name, shape)
            }
            return [(0, half), (half, 0)].map { first, from in
                TensorUpdate(
                    tensor: name, module: module.label, rows: first..<first + half, update: update, from: from, scale: scale,
                    adapterPath: adapter)
            }
        }

        private func misfit(_ name: String, _ shape: [Int]) -> MergeError {
            MergeError(
                .shapeMismatch, path: adapter, tensor: name,
                "\(module.update.inWords) is an update of \(describe(shape: [module.outputs, module.inputs])) and the weight is \(describe(shape: shape)); the adapter was made for a model of other sizes"
            )
        }

        /// The update of rows of a matrix in which the module lies with others, each but the last with as many outputs as inputs.
        private func update(
            _ update: any UpdateMethod, ofPart number: Int, of name: String, shape: [Int]
        ) throws(MergeError) -> TensorUpdate {
            let first = number * update.inputs
            guard module.magnitude == nil, module.kind == .linear, shape.count == 2, shape[1] == update.inputs, first + update.outputs <= shape[0]
            else { throw misfit(name, shape) }
            return TensorUpdate(
                tensor: name, module: module.label, rows: first..<first + update.outputs, update: update, scale: scale, adapterPath: adapter)
        }

        private func update(_ update: any UpdateMethod, of name: String, shape: [Int]) throws(MergeError) -> TensorUpdate {
            let isTransposed = model.storesTransposed(module, shape: shape)
            let stored = isTransposed ? update.transposed : update
            // A convolution over single points is a linear layer, and either may be stored as the other.
            let mayHaveKernel = module.kind == .convolution || update.mayBeOfConvolution || shape.dropFirst(2).allSatisfy { $0 == 1 }
            guard shape.count >= 2, mayHaveKernel, let fitted = stored.fitting(outputs: shape[0], inputs: shape.dropFirst().reduce(1, &*)) else {
                throw MergeError(
                    .shapeMismatch, path: adapter, tensor: name,
                    "\(update.inWords) is an update of \(describe(shape: [stored.outputs, stored.inputs])) and the weight is \(describe(shape: shape)); the adapter was made for a model of other sizes"
                )
            }
            if let values = module.magnitude?.values, case .ofColumns = module.magnitude {
                guard values.columns == shape[isTransposed ? 0 : 1] else { throw misfit(name, shape) }
            }
            return TensorUpdate(
                tensor: name, module: module.label, rows: 0..<fitted.outputs, update: fitted, scale: scale,
                magnitude: isTransposed ? module.magnitude?.transposed : module.magnitude, isTransposed: isTransposed, adapterPath: adapter)
        }

        /// What a method does to the bias, where the layer has one.
        func updateOfBias(_ update: any UpdateMethod) throws(MergeError) -> [TensorUpdate] {
            let name = biasName(model.places(of: module).first)
            guard replaced[name] != nil || model.source(of: name) != nil else { return [] }
            let (own, weight) = try model.tensor(name, adapter: adapter, replaced: replaced)
            guard let count = weight.shape.first, weight.shape.count == 1, let fitted = update.fitting(outputs: 1, inputs: count) else {
                throw misfit(own, weight.shape)
            }
            return [TensorUpdate(tensor: own, module: module.label, rows: 0..<1, update: fitted, scale: scale, adapterPath: adapter)]
        }

        private func biasName(_ place: ModuleIndex.Place?) -> String {
            (place?.tensor).map { String($0.dropLast("weight".count)) + "bias" } ?? "\(module.place).bias"
        }

        func biasUpdate(_ stored: FactorMatrix) throws(MergeError) -> TensorUpdate {
            let place = model.places(of: module).first
            let bias = place?.relation == .exchanged ? module.withHalvesExchanged?.bias ?? stored : stored
            let own = biasName(place)
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
            // A column of outputs, stored as a row.
            let update = LoRA(LowRankFactors(a: .one, b: bias.transposed)).transposed
            return TensorUpdate(
                tensor: name, module: module.label, rows: 0..<1, update: update, scale: scale, isTransposed: true, adapterPath: adapter)
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
            return isTransposed && shape.count == 2 && shape[1] == module.outputs && (module.takesInputsOfWeight || shape[0] == module.inputs)
        }
    }
}

extension UpdateMethod {
    /// As errors name it.
    fileprivate var inWords: String {
        guard let factors = lowRank else { return "the \(Self.name)" }
        return "B \(describe(shape: factors.b.shape)) times A \(describe(shape: factors.a.shape))"
    }
}
