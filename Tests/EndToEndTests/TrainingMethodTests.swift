import FileIO
import JSON
import Methods
import Safetensors
import TestModels
import TestSupport
import Testing
import Weights

/// Every method that is trained, from its run to the merged model.
struct TrainingMethodTests {
    private let space: Workspace

    init() throws { space = try Workspace() }

    private func arguments(_ method: TrainingMethod, out: String, _ more: String...) -> [String] {
        space.trainArguments(out: out, ["--method", method.rawValue] + more).withoutHypernetworks(unless: method.type.hasHypernetworks)
    }

    @Test(arguments: TrainingMethod.allCases) func aRunIsCollapsedMergedAndVerified(method: TrainingMethod) throws {
        // Enough to move the factors beyond what BF16 rounds away.
        try space.succeed(arguments(method, out: "run.opck", "--targets", "q_proj,down_proj", "--schedule", "constant"))
        let inspected = try JSONValue(parsing: try space.succeed(["inspect", space.path("run.opck"), "--json"]).output)
        #expect(inspected["run"]?["method"]?.stringValue == method.rawValue)
        let collapsed = try space.succeed(["collapse", space.path("run.opck"), "--out", space.path("adapter"), "--verify"])
        let text = collapsed.output + collapsed.errors
        #expect(text.contains("modules are what the run gives"), "\(text)")
        // What is trained is the adapter, magnitudes and all, or what makes it.
        let counts = try #require(text.firstMatch(of: /([0-9,]+) parameters of ([0-9,]+) that were trained/), "\(text)")
        #expect((counts.1 == counts.2) == !method.type.hasHypernetworks, "\(text)")
        try space.succeed([
            "merge", "--base", Repository.tinyLlama, "--adapter", space.path("adapter"), "--out", space.path("merged"), "--dtype", "f32",
            "--no-fsync",
        ])
        // The run itself is the adapter.
        try space.succeed([
            "verify", "--base", Repository.tinyLlama, "--adapter", space.path("run.opck"), "--merged", space.path("merged"), "--dtype", "f32",
            "--max-ulp",
            "0",
        ])
        try space.succeed(["verify", "--run", space.path("run.opck"), "--adapter", space.path("adapter")])
        // Another run's adapter is no collapse of this one.
        try space.succeed(
            arguments(method, out: "other.opck", "--targets", "q_proj,down_proj", "--schedule", "constant", "--seed", "1"))
        let wrong = try Executable.run(["verify", "--run", space.path("other.opck"), "--adapter", space.path("adapter")])
        #expect(wrong.status == 1 && (wrong.output + wrong.errors).contains("are not what the run gives"), "\(wrong.output) \(wrong.errors)")
    }

    @Test(arguments: TrainingMethod.allCases) func aRunThatGoesOnIsTheSameRun(method: TrainingMethod) throws {
        try space.succeed(arguments(method, out: "whole.opck", "--schedule", "constant", "--warmup-ratio", "0"))
        try space.succeed(
            arguments(method, out: "half.opck", "--schedule", "constant", "--warmup-ratio", "0").replacing("--steps", with: "5"))
        try space.succeed([
            "train", "--base", Repository.tinyLlama, "--data", Repository.fixture("texts/adapt-heldout.txt"), "--resume", space.path("half.opck"),
            "--out", space.path("half.opck"), "--steps", "12",
        ])
        #expect(try readAll(space.path("half.opck")) == readAll(space.path("whole.opck")))
    }

    @Test(arguments: TrainingMethod.allCases) func dropoutIsTakenOrRefused(method: TrainingMethod) throws {
        let outcome = try Executable.run(arguments(method, out: "run.opck", "--dropout", "0.1"))
        #expect(outcome.status == (method.type.takesDropout ? 0 : 64), "\(outcome.errors)")
        #expect(method.type.takesDropout || outcome.errors.contains("--dropout must be 0 with the method \(method.rawValue)"))
    }
}

extension [String] {
    /// Arguments without the options that only hypernetworks have.
    fileprivate func withoutHypernetworks(unless hasHypernetworks: Bool) -> [String] {
        guard !hasHypernetworks else { return self }
        var kept: [String] = []
        var index = startIndex
        while index < endIndex {
            if ["--width", "--embedding"].contains(self[index]) {
                index += 2
            } else {
                kept.append(self[index])
                index += 1
            }
        }
        return kept
    }

    /// The same arguments with another value of an option.
    fileprivate func replacing(_ option: String, with value: String) -> [String] {
        var copy = self
        if let place = copy.firstIndex(of: option) { copy[place + 1] = value }
        return copy
    }
}
