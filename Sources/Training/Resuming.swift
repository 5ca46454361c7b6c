internal import NativeCheckpoint

/// Whether a run may go on as somebody asks for.
extension TrainingSubject {
    /// - Throws: `TrainingError` where it would not be the same run any more.
    func check(continues run: TrainingCheckpoint) throws(TrainingError) {
        guard baseFingerprint == run.subject.baseFingerprint else {
            throw TrainingError(
                .otherBase,
                "\(run.file.path): the run was trained on a model called \(run.subject.baseName), whose weights are not those of the base that is given"
            )
        }
        guard dataFingerprint == run.subject.dataFingerprint else {
            throw TrainingError(.otherData, "the run was started on other data")
        }
        if let measured = run.subject.evaluationFingerprint, measured != evaluationFingerprint {
            throw TrainingError(
                .otherEvaluationData,
                "the run measures its loss on \(evaluationFingerprint == nil ? "held-out data, and none is given" : "other held-out data")")
        }
        var expected = run.subject.configuration
        (expected.steps, expected.evaluationInterval) = (configuration.steps, configuration.evaluationInterval)
        guard configuration == expected else {
            throw TrainingError(.invalidOption, "\(run.file.path): the run was started with other options, and a run goes on as it began")
        }
        try checkSteps(of: run)
    }

    /// Another number of steps is right where the steps that are done would have been the same with it.
    private func checkSteps(of run: TrainingCheckpoint) throws(TrainingError) {
        let (asked, planned, done) = (configuration.steps, run.subject.configuration.steps, run.progress.step)
        guard asked != planned else { return }
        guard asked >= done else {
            throw TrainingError(.invalidOption, "\(run.file.path): the run has done \(done) steps, and \(asked) are asked for")
        }
        let rates = run.progress.learningRates
        guard let other = rates.indices.first(where: { Float(configuration.learningRate(atStep: $0)) != rates[$0] }) else { return }
        throw TrainingError(
            .otherSteps,
            "\(run.file.path): the run was started for \(planned) steps, and its learning rate follows their number: with \(asked) steps it would have been \(configuration.learningRate(atStep: other)) and not \(rates[other]) in step \(other + 1), which is done"
        )
    }
}
